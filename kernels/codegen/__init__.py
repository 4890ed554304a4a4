"""CPU kernels without a compiler at the user's: Python writes LLVM IR, llvmlite compiles it.

emitter.py: loops, loads and arithmetic on vectors, as Python objects that write IR.
functions.py: exp2, softplus, sigmoid and sums over lanes, made of these.
compiler.py: what this CPU has; IR to machine code, kept in the cache folder.
launch.py: one call of a compiled kernel on torch's number of threads.
"""
