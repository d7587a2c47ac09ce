"""What a network is: layers and weights, ncnn's layer types and files, the kernels of targets."""
