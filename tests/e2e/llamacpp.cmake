# What the tests need of llama.cpp, compiled as fast as it goes; its own choice takes several times as long. Nobody
# measures it: the model has a few thousand weights. Every project of the build reads this first.

# Neither the library of its command line programs nor pictures.
set(LLAMA_BUILD_COMMON OFF)
set(LLAVA_BUILD OFF)
# Nothing for one kind of processor: a cached wheel may be used on another one.
set(GGML_NATIVE OFF)
set(GGML_AVX OFF)
set(GGML_LLAMAFILE OFF)
set(GGML_CPU_REPACK OFF)
set(GGML_OPENMP OFF)
set(CMAKE_C_FLAGS_RELEASE -O0)
set(CMAKE_CXX_FLAGS_RELEASE -O0)
