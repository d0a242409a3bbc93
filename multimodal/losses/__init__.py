"""What image-text models are trained on: each loss with its gradients exact, and without what it need not keep."""
