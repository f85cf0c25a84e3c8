"""Embedding schemes: ids, dense → x_BW, the fields side by side. One scheme a file."""
