-- The service's tables have names that MLflow's have too: it gets a database of its own.
CREATE DATABASE recsys;
