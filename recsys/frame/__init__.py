"""The frame of every model, embedding → pooling → gate → interaction → logit, and the contract of each part."""
