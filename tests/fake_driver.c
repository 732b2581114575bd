/* What an NVIDIA driver says of itself, as far as it is asked: FAKE_CUDA is its newest CUDA, FAKE_GPUS their number. */
#include <stdlib.h>
#include <string.h>

int cuInit(unsigned flags) { (void)flags; return atoi(getenv("FAKE_GPUS")) ? 0 : 100; }
int cuDriverGetVersion(int *version) { *version = atoi(getenv("FAKE_CUDA")); return 0; }
int cuDeviceGetCount(int *count) { *count = atoi(getenv("FAKE_GPUS")); return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int length, int device) { (void)device; strncpy(name, "Card", length); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = (size_t)80 << 30; return 0; }
