"""What runs the queue's runs: a worker starts each as a process group of its own, and takes back those of dead ones."""
