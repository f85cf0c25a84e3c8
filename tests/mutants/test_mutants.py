"""Faults that each must make a fast test fail: one at a time, in a copy of the code."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RUN = "tests/pipeline/test_splits_differ.py::"
LEAP = "tests/unit/test_leap_weights.py::"
PEERS = "tests/unit/test_peers.py::"
SEVERAL = "tests/unit/test_several.py::test_loss_is_the_weighted_mean_over_labels_of_their_means_over_observed_rows"
MUON = "tests/unit/test_muon.py::"
FWSVD = "tests/unit/test_compression.py::test_fwsvd_weighs_rows_by_the_root_of_their_own_tables_fisher_information"


@dataclass(frozen=True)
class Mutant:
    """A fault.

    Args:
        name: What it does.
        file: Where, from the repository's root.
        old: The text it replaces, which stands there exactly once.
        new: What it puts there.
        test: A test of `make test` that must fail.
    """

    name: str
    file: str
    old: str
    new: str
    test: str


MUTANTS = [
    Mutant(
        "training stops early by test rows",
        "pipelines/train.py",
        'Shards(stage.data, "train", schema), Shards(stage.data, "valid", schema)',
        'Shards(stage.data, "train", schema), Shards(stage.data, "test", schema)',
        RUN + "test_training_looks_at_validation_and_keeps_its_best",
    ),
    Mutant(
        "selection judges by test rows",
        "pipelines/select_features.py",
        'for split in ("train", "valid"))',
        'for split in ("train", "test"))',
        RUN + "test_selection_judges_fields_by_validation_and_by_weight",
    ),
    Mutant(
        "the calibrator is fitted on test rows",
        "pipelines/evaluate.py",
        "_calibrators(valid_BT, valid)",
        "_calibrators(test_BT, test)",
        RUN + "test_recalibration_is_fitted_on_validation_by_weight",
    ),
    Mutant(
        "the calibrator forgets the weights",
        "pipelines/evaluate.py",
        "fit_calibrator(sigmoid(logit_B), rows.label_B, rows.weight_B, rows.time_B)",
        "fit_calibrator(sigmoid(logit_B), rows.label_B, None, rows.time_B)",
        RUN + "test_recalibration_is_fitted_on_validation_by_weight",
    ),
    Mutant(
        "validation is reported as test",
        "pipelines/evaluate.py",
        "_figures(test_BT, test), None",
        "_figures(label_logits(model, valid, device=device), valid), None",
        RUN + "test_the_evaluation_is_of_test_and_names_validation_so",
    ),
    Mutant(
        "the bundle has no recalibration",
        "pipelines/export.py",
        "calibrator=calibrator",
        "calibrator=None",
        RUN + "test_the_bundle_is_the_compressed_model_recalibrated",
    ),
    Mutant(
        "the bundle holds the model before compression",
        "pipelines/export.py",
        "source = newest_model(stage)",
        'source = newest_model(stage, before="compress")',
        RUN + "test_the_bundle_is_the_compressed_model_recalibrated",
    ),
    Mutant(
        "nothing is quantised",
        "pipelines/compress.py",
        'for group in ("compression", "quantization", "heal"):',
        'for group in ("compression", "heal"):',
        RUN + "test_tables_are_quantised",
    ),
    Mutant(
        "LeAP's gates all pay the same",
        "recsys/selection/gates.py",
        "return (self.weight_U * self.gates()).sum()",
        "return self.gates().sum()",
        LEAP + "test_a_gate_pays_its_weight_times_the_price",
    ),
    Mutant(
        "LeAP's score forgets the weight",
        "recsys/selection/methods/leap.py",
        "return gates.weight_U * 10 **",
        "return 10 **",
        LEAP + "test_a_score_is_weight_times_where_the_gate_closed",
    ),
    Mutant(
        "LeAP's gates learn on training rows",
        "recsys/selection/methods/leap.py",
        "batches_forever(valid, batch_size, ",
        "batches_forever(search.train, batch_size, ",
        RUN + "test_selection_judges_fields_by_validation_and_by_weight",
    ),
    Mutant(
        "Fisher information without its root",
        "recsys/compression/fwsvd.py",
        "+ 1e-5).sqrt()",
        "+ 1e-5)",
        FWSVD,
    ),
    Mutant(
        "Fisher information of another table",
        "recsys/compression/fwsvd.py",
        "fisher_weights(fisher[name])",
        "fisher_weights(next(iter(fisher.values())))",
        FWSVD,
    ),
    Mutant(
        "AutoField's gates learn on training rows",
        "recsys/selection/methods/autofield.py",
        "held_out = batches_forever(search.valid, ",
        "held_out = batches_forever(search.train, ",
        PEERS + "test_autofield_gates_learn_on_validation_rows",
    ),
    Mutant(
        "AutoField's temperature does not fall",
        "recsys/selection/methods/autofield.py",
        "return max(_LAST_TAU, 1 - self.calls * self.tau_step)",
        "return 1.0",
        PEERS + "test_autofield_is_gumbel_softmax_at_a_falling_temperature",
    ),
    Mutant(
        "OptFS's temperature does not grow",
        "recsys/selection/methods/optfs.py",
        "masks.tau = last_tau ** (step.number / step.total)",
        "masks.tau = 1.0",
        PEERS + "test_optfs_tau_grows_to_its_last_by_a_constant_factor",
    ),
    Mutant(
        "LPFS's ε does not shrink",
        "recsys/selection/methods/lpfs.py",
        "epsilon = 0.1 * (last_epsilon / 0.1) ** (step.number / step.total)",
        "epsilon = 0.1",
        PEERS + "test_lpfs_epsilon_shrinks_to_its_last_by_a_constant_factor",
    ),
    Mutant(
        "table_l2 counts rows of weight 0",
        "recsys/training/loop.py",
        "row_mean(square_B, batch.weight_B)",
        "square_B.mean()",
        "tests/unit/test_train.py::test_table_l2_counts_a_row_of_weight_n_as_n_rows",
    ),
    Mutant(
        "the interval of what keeping changes has no noise of rows",
        "pipelines/retrains.py",
        "return paired_difference(change_S, ours_R - theirs_R)",
        "return paired_difference(change_S, 0 * (ours_R - theirs_R))",
        "tests/pipeline/test_benchmark.py::test_what_keeping_changes_has_an_interval_that_holds_row_noise",
    ),
    Mutant(
        "LightGBM stops early by unweighted rows",
        "recsys/baselines/trees.py",
        "held = lightgbm.Dataset(x, valid[2], weight=valid[3], ",
        "held = lightgbm.Dataset(x, valid[2], ",
        "tests/unit/test_baseline.py::test_trees_stop_by_validation_rows_as_they_weigh",
    ),
    Mutant(
        "a search among probes takes the steps of the model without them",
        "pipelines/select_features.py",
        'steps=int(best_look(history)["step"]))',
        "steps=search.steps)",
        "tests/unit/test_probes.py::test_a_search_among_probes_takes_as_many_steps_as_the_probed_model",
    ),
    Mutant(
        "a baseline is recalibrated on test rows",
        "recsys/baselines/fit.py",
        "fit_calibrator(sigmoid(logit[valid]), valid.label_B, valid.weight_B, valid.time_B)",
        "fit_calibrator(sigmoid(logit[test]), test.label_B, test.weight_B)",
        "tests/unit/test_baseline.py::test_baselines_are_recalibrated_on_validation",
    ),
    Mutant(
        "what replaces a value is drawn without weights",
        "recsys/selection/shuffle.py",
        "donors(len(block_RD), self._weight_R, ",
        "donors(len(block_RD), None, ",
        "tests/unit/test_counted.py::test_what_replaces_a_value_is_drawn_as_it_weighs",
    ),
    Mutant(
        "reads before fresh tables count",
        "recsys/compression/contract.py",
        "count_V * (state[n] > 0) if n in state else count_V",
        "count_V",
        "tests/unit/test_compression.py::test_reads_before_the_tables_were_last_drawn_do_not_count",
    ),
    Mutant(
        "the error that bits may make is of all rows alike",
        "recsys/compression/fewest_bits.py",
        "fewer.held(), weight_R) <= error",
        "fewer.held()) <= error",
        "tests/unit/test_compression.py::test_the_error_that_bits_may_make_is_of_rows_as_they_are_read",
    ),
    Mutant(
        "probes forget the weights",
        "recsys/selection/probes.py",
        "if shards.weight_B is not None:",
        "if False:",
        "tests/unit/test_probes.py::test_a_probe_has_its_sources_values_as_often_as_they_weigh",
    ),
    Mutant(
        "LPFS orders by x",
        "recsys/selection/methods/lpfs.py",
        "x_F.abs().tolist(), strict=True))",
        "x_F.tolist(), strict=True))",
        PEERS + "test_lpfs_orders_by_size_and_keeps_a_gate_in_use_below_0",
    ),
    Mutant(
        "several labels: their weights do not count",
        "recsys/heads/several.py",
        "return (self.weight_T * loss_T).sum() / self.weight_T.sum()",
        "return loss_T.mean()",
        SEVERAL,
    ),
    Mutant(
        "several labels: a missing one is a 0",
        "recsys/heads/several.py",
        "counts_BT = label_BT.isfinite().float()",
        "counts_BT = torch.ones_like(label_BT)",
        SEVERAL,
    ),
    Mutant(
        "every label's loss is of the first logit, broadcast",
        "recsys/heads/several.py",
        "logit_BT.float(), label_BT.nan_to_num(0.0)",
        "logit_BT[:, :1].float().expand_as(label_BT), label_BT.nan_to_num(0.0)",
        SEVERAL,
    ),
    Mutant(
        "a model that gives logit_B is broadcast over its rows",
        "recsys/frame/ctr.py",
        "y if y.ndim == 2 else y.unsqueeze(1)",
        "y if y.ndim == 2 else y.unsqueeze(0)",
        "tests/unit/test_several.py::test_a_model_of_one_logit_a_row_works_with_the_click_head_alone",
    ),
    Mutant(
        "distill forgets T²",
        "pipelines/distill.py",
        "weight * temperature**2 * soft",
        "weight * soft",
        "tests/pipeline/test_distill.py::test_the_loss_is_the_formula",
    ),
    Mutant(
        "codebooks forget how often rows are read",
        "recsys/compression/pq.py",
        "weight_V = reads_V.double().numpy() + 0.01",
        "weight_V = np.ones(len(reads_V))",
        "tests/unit/test_pq.py::test_rows_that_are_read_more_err_less",
    ),
    Mutant(
        "healing never keeps the start",
        "recsys/compression/heal.py",
        "    if after is None or not after[main] < before[main]:\n        healed = model\n",
        "",
        "tests/unit/test_heal.py::test_healing_that_does_not_help_keeps_the_start",
    ),
    Mutant(
        "a node's digest lacks its inputs",
        "pipelines/node.py",
        '"inputs": {name: i.digest for name, i in self.inputs.items()}}',
        '"inputs": {}}',
        "tests/unit/test_versions.py::test_a_change_reaches_its_stage_and_all_that_comes_after",
    ),
    Mutant(
        "a run that was killed is running for ever",
        "recsys/results.py",
        'dead = run.state == "running" and not is_held(folder / LOCK)',
        "dead = False",
        "tests/unit/test_events.py::test_a_run_whose_process_is_gone_was_killed",
    ),
    Mutant(
        "the optimiser of tables is not told its rate",
        "recsys/embeddings/fused.py",
        "        optimizer.step()  # hands",
        "        _ = optimizer  # hands",
        "tests/unit/test_table_optimizers.py::test_three_steps_are_the_formulas",
    ),
    Mutant(
        "Muon orthogonalises the row that gives one logit",
        "recsys/training/optimizers/muon.py",
        "p.ndim == 2 and min(p.shape) > 1",
        "p.ndim == 2",
        MUON + "test_all_but_hidden_matrices_move_as_under_adamw",
    ),
    Mutant(
        "Muon leaves hidden matrices to AdamW too",
        "recsys/training/optimizers/muon.py",
        "[p for p in dense if id(p) not in chosen]",
        "[*dense]",
        MUON + "test_a_hidden_matrix_moves_equally_far_in_every_direction_of_its_momentum",
    ),
    Mutant(
        "batches stay on the CPU",
        "recsys/training/device.py",
        'return batch if self.torch_device.type == "cpu" else batch.to(self.torch_device, non_blocking=True)',
        "return batch",
        "tests/unit/test_device.py::test_every_part_stays_on_the_device_of_the_run",
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_changes_what_is_there(mutant: Mutant) -> None:
    source = (ROOT / mutant.file).read_text()
    assert source.count(mutant.old) == 1, f"{mutant.file}: write the mutant for the code as it is"
    compile(source.replace(mutant.old, mutant.new), mutant.file, "exec")
    file, _, test = mutant.test.partition("::")
    assert f"def {test}(" in (ROOT / file).read_text()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The code and its tests in another folder."""
    skipped = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for name in ("recsys", "pipelines", "conf", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=skipped)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def judged(folder: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """pytest in that folder, on the code that lies there."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=--import-mode=importlib",
    ]
    where = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [*command, *tests], cwd=folder, env={**os.environ, **where}, capture_output=True, text=True, timeout=900
    )


@pytest.mark.slow
def test_the_copy_passes_as_it_is(copy: Path) -> None:
    done = judged(copy, sorted({m.test for m in MUTANTS}))
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_a_mutant_fails_its_test(mutant: Mutant, copy: Path) -> None:
    file = copy / mutant.file
    file.write_text(file.read_text().replace(mutant.old, mutant.new))
    done = judged(copy, [mutant.test])
    assert done.returncode == 1 and " failed" in done.stdout, f"{mutant.name} passes:\n{done.stdout[-3000:]}"
