/* NVIDIA's CUDA runtime where the GPU's memory is the host's and no kernel computes anything, as far as a session of
   ONNX Runtime needs it. Once there is a file of the name FAKE_CUDA_BREAKS, this process's context is broken: each
   later call fails as after an illegal address, whether or not the file stays. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int broken;

static int status(void) {
  const char *file = getenv("FAKE_CUDA_BREAKS");
  if (file && access(file, F_OK) == 0) broken = 700;
  return broken;
}

static int allocate(void **memory, size_t bytes) {
  *memory = calloc(1, bytes + 1);
  return status();
}

int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaMemGetInfo(size_t *free, size_t *total) { *free = *total = (size_t)8 << 30; return status(); }
int cudaMalloc(void **memory, size_t bytes) { return allocate(memory, bytes); }
int cudaMallocHost(void **memory, size_t bytes) { return allocate(memory, bytes); }
int cudaHostAlloc(void **memory, size_t bytes, unsigned flags) { (void)flags; return allocate(memory, bytes); }
int cudaFree(void *memory) { free(memory); return status(); }
int cudaFreeHost(void *memory) { free(memory); return status(); }
int cudaMemcpy(void *to, const void *from, size_t bytes, int kind) {
  (void)kind;
  memcpy(to, from, bytes);
  return status();
}
int cudaMemcpyAsync(void *to, const void *from, size_t bytes, int kind, void *stream) {
  (void)stream;
  return cudaMemcpy(to, from, bytes, kind);
}
int cudaStreamSynchronize(void *stream) { (void)stream; return status(); }
const char *cudaGetErrorName(int error) { return error == 700 ? "cudaErrorIllegalAddress" : "cudaSuccess"; }
const char *cudaGetErrorString(int error) { return error == 700 ? "an illegal memory access was encountered" : "no error"; }
