"""The product as a whole: real Jupyter servers, real kernels, real processes killed."""
