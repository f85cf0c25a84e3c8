"""Commands of the training service: each asks one door, `recsys.service.door`."""
