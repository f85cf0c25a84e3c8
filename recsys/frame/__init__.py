"""What every model shares: embedding → pooling → gate → interaction → logit, and the contract of each part."""
