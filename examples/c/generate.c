/* An image from a generator's ONNX file, with ONNX Runtime's C API and nothing else.

   ./generate ../digits.onnx --seed 7 --label 3 --out image.pgm

   A seed becomes the generator's input z by Philox4x32-10 (Salmon et al. 2011) and Box-Muller. Functions that can fail
   return false after printing why in one sentence. */

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <onnxruntime_c_api.h>

enum { MAX_CLASS_NAME = 256, LISTED_CLASSES = 10 }; /* bytes; how many a message lists */

static const uint64_t MAX_SEED = (UINT64_C(1) << 53) - 1;
static const double PI = 3.14159265358979323846;

static bool fail(const char *format, ...) {
    va_list values;
    va_start(values, format);
    fputs("generate: ", stderr);
    vfprintf(stderr, format, values);
    fputc('\n', stderr);
    va_end(values);
    return false;
}

/* ---- the command line -------------------------------------------------------------------------------------------- */

struct request {
    const char *onnx_file, *out;
    const char *label; /* a class by name or index; NULL for the seed's own */
    uint64_t seed, to_seed;
    bool has_seed, has_to_seed, has_position;
    double truncation; /* infinite for no bound */
    double position;
};

static bool whole_number(const char *text, uint64_t largest, uint64_t *value) {
    char *end;
    errno = 0;
    *value = strtoull(text, &end, 10);
    /* strtoull itself would take a sign, spaces in front, and nothing at all */
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && *value <= largest;
}

static bool number(const char *text, double least, double most, double *value) {
    char *end;
    *value = strtod(text, &end);
    return end != text && *end == '\0' && isfinite(*value) && *value >= least && *value <= most;
}

static bool read_seed(const char *option, const char *text, uint64_t *seed) {
    return whole_number(text, MAX_SEED, seed) ||
           fail("%s %s is not possible: give a whole number from 0 to %llu.", option, text,
                (unsigned long long)MAX_SEED);
}

static bool read_option(const char *option, const char *text, struct request *request) {
    if (strcmp(option, "--seed") == 0)
        return request->has_seed = read_seed(option, text, &request->seed);
    if (strcmp(option, "--to-seed") == 0)
        return request->has_to_seed = read_seed(option, text, &request->to_seed);
    if (strcmp(option, "--position") == 0)
        return (request->has_position = number(text, 0, 1, &request->position)) ||
               fail("--position %s is not possible: give a number from 0 (--seed) to 1 (--to-seed).", text);
    if (strcmp(option, "--truncation") == 0)
        return number(text, 0.1, HUGE_VAL, &request->truncation) ||
               fail("--truncation %s is not possible: give a number of at least 0.1.", text);
    if (strcmp(option, "--label") == 0)
        return (request->label = text) != NULL;
    if (strcmp(option, "--out") == 0)
        return (request->out = text) != NULL;
    return fail("there is no option %s: there are --seed, --label, --truncation, --to-seed, --position, --out.", option);
}

static bool read_arguments(int count, char **words, struct request *request) {
    *request = (struct request){.truncation = HUGE_VAL};
    for (int i = 1; i < count; i++) {
        if (strncmp(words[i], "--", 2) == 0) {
            if (i + 1 == count)
                return fail("%s needs a value.", words[i]);
            if (!read_option(words[i], words[i + 1], request))
                return false;
            i++;
        } else if (request->onnx_file == NULL) {
            request->onnx_file = words[i];
        } else {
            return fail("%s is one ONNX file too many.", words[i]);
        }
    }
    if (request->onnx_file == NULL || !request->has_seed || request->out == NULL)
        return fail("give at least the generator's ONNX file, --seed and --out.");
    if (request->has_to_seed != request->has_position)
        return fail("--to-seed and --position go together: an image between two seeds needs both.");
    return true;
}

/* ---- seed to z --------------------------------------------------------------------------------------------------- */

static void philox(uint32_t block, uint32_t attempt, uint64_t seed, uint32_t words[4]) {
    uint32_t c[4] = {block, attempt, 0, 0};
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = UINT64_C(0xD2511F53) * c[0], p1 = UINT64_C(0xCD9E8D57) * c[2];
        c[0] = (uint32_t)(p1 >> 32) ^ c[1] ^ k0;
        c[1] = (uint32_t)p1;
        c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ k1;
        c[3] = (uint32_t)p0;
        k0 += UINT32_C(0x9E3779B9);
        k1 += UINT32_C(0xBB67AE85);
    }
    memcpy(words, c, sizeof c);
}

/* Value i of a seed's attempt: a block of four words makes four values, of which each pair shares two words. */
static float normal(uint64_t seed, uint32_t attempt, size_t i) {
    uint32_t words[4];
    philox((uint32_t)(i / 4), attempt, seed, words);
    const size_t pair = i % 4 / 2 * 2;
    const double u = (words[pair] + 0.5) / 4294967296.0, v = (words[pair + 1] + 0.5) / 4294967296.0;
    const double radius = sqrt(-2 * log(u)), angle = 2 * PI * v;
    return (float)(radius * (i % 2 == 0 ? cos(angle) : sin(angle)));
}

/* A value beyond the truncation is replaced by that of the next attempt, until one lies within. */
static void latent(uint64_t seed, double truncation, size_t size, float *z) {
    for (size_t i = 0; i < size; i++) {
        uint32_t attempt = 0;
        do
            z[i] = normal(seed, attempt++, i);
        while (fabsf(z[i]) > (float)truncation);
    }
}

/* Moves z along the arc to the end, by a share of the way (spherical interpolation, Shoemake 1985). */
static void move(float *z, const float *end, double position, size_t size) {
    double dot = 0, length = 0, end_length = 0;
    for (size_t i = 0; i < size; i++) {
        dot += (double)z[i] * end[i];
        length += (double)z[i] * z[i];
        end_length += (double)end[i] * end[i];
    }
    const double angle = acos(fmax(-1, fmin(1, dot / (sqrt(length) * sqrt(end_length)))));
    double a = 1 - position, b = position;
    if (sin(angle) >= 1e-6) { /* two z of nearly one direction have no arc between them */
        a = sin(a * angle) / sin(angle);
        b = sin(b * angle) / sin(angle);
    }
    for (size_t i = 0; i < size; i++)
        z[i] = (float)(a * z[i] + b * end[i]);
}

/* ---- the generator ----------------------------------------------------------------------------------------------- */

struct generator {
    const OrtApi *api;
    OrtEnv *env;
    OrtSessionOptions *options;
    OrtSession *session;
    OrtModelMetadata *metadata;
    OrtAllocator *allocator; /* ONNX Runtime's own, which is not released */
    size_t latent_size, height, width, channels;
    char *class_names; /* a JSON list of strings, empty where there is no label */
};

static bool ok(const struct generator *generator, OrtStatus *status) {
    if (status == NULL)
        return true;
    fail("ONNX Runtime: %s", generator->api->GetErrorMessage(status));
    generator->api->ReleaseStatus(status);
    return false;
}

/* A value of the file's metadata, to be freed with the allocator; NULL where there is none. */
static bool look_up(struct generator *generator, const char *key, char **value) {
    return ok(generator, generator->api->ModelMetadataLookupCustomMetadataMap(generator->metadata, generator->allocator,
                                                                              key, value));
}

static bool free_value(struct generator *generator, char *value) {
    return value == NULL || ok(generator, generator->api->AllocatorFree(generator->allocator, value));
}

static bool look_up_size(struct generator *generator, const char *key, size_t *size) {
    char *text = NULL;
    uint64_t value = 0;
    if (!look_up(generator, key, &text))
        return false;
    const bool possible = text != NULL && whole_number(text, 65536, &value) && value > 0;
    *size = (size_t)value;
    return (free_value(generator, text) && possible) || fail("the ONNX file's metadata have no possible %s.", key);
}

static bool has_contract(struct generator *generator) {
    char *contract = NULL;
    if (!look_up(generator, "gan.contract", &contract))
        return false;
    const bool present = contract != NULL;
    return (free_value(generator, contract) && present) ||
           fail("this ONNX file is not a generator: its metadata have no gan.contract.");
}

/* A newer contract only adds keys, so its version does not matter, and files of contract 1, which have no gan.kind, hold
   images. */
static bool makes_images(struct generator *generator) {
    char *kind = NULL;
    if (!look_up(generator, "gan.kind", &kind))
        return false;
    const bool images = kind == NULL || strcmp(kind, "image") == 0;
    if (!images)
        fail("this ONNX file makes samples of the kind %.40s, and this program can write images only.", kind);
    return free_value(generator, kind) && images;
}

static bool describe(struct generator *generator) {
    return ok(generator, generator->api->SessionGetModelMetadata(generator->session, &generator->metadata)) &&
           has_contract(generator) && makes_images(generator) &&
           look_up_size(generator, "gan.latent_size", &generator->latent_size) &&
           look_up_size(generator, "gan.height", &generator->height) &&
           look_up_size(generator, "gan.width", &generator->width) &&
           look_up_size(generator, "gan.channels", &generator->channels) &&
           look_up(generator, "gan.class_names", &generator->class_names) &&
           (generator->class_names != NULL || fail("the ONNX file's metadata have no gan.class_names."));
}

static bool open_generator(struct generator *generator, const char *onnx_file) {
    *generator = (struct generator){.api = OrtGetApiBase()->GetApi(ORT_API_VERSION)};
    const OrtApi *api = generator->api;
    if (api == NULL)
        return fail("ONNX Runtime %s is older than the header that this program was compiled with.",
                    OrtGetApiBase()->GetVersionString());
    return ok(generator, api->GetAllocatorWithDefaultOptions(&generator->allocator)) &&
           ok(generator, api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "generate", &generator->env)) &&
           ok(generator, api->CreateSessionOptions(&generator->options)) && /* as they are, they mean the CPU */
           ok(generator, api->CreateSession(generator->env, onnx_file, generator->options, &generator->session)) &&
           describe(generator);
}

static bool close_generator(struct generator *generator) {
    const OrtApi *api = generator->api;
    if (api == NULL)
        return true;
    const bool freed = free_value(generator, generator->class_names);
    api->ReleaseModelMetadata(generator->metadata); /* each of these takes NULL, too */
    api->ReleaseSession(generator->session);
    api->ReleaseSessionOptions(generator->options);
    api->ReleaseEnv(generator->env);
    return freed;
}

/* ---- classes ----------------------------------------------------------------------------------------------------- */

/* The next string of a JSON list, with *json moved behind it; false after the last. Enough for quotes and backslashes,
   while a class with a control character in its name can be chosen by its index only. */
static bool next_name(const char **json, char name[MAX_CLASS_NAME]) {
    const char *from = strchr(*json, '"');
    if (from == NULL)
        return false;
    size_t length = 0;
    for (from++; *from != '"' && *from != '\0'; from++) {
        if (*from == '\\' && from[1] != '\0')
            from++;
        if (length + 1 < MAX_CLASS_NAME)
            name[length++] = *from;
    }
    name[length] = '\0';
    *json = *from == '"' ? from + 1 : from;
    return true;
}

static bool no_such_class(const char *names, const char *label, uint64_t count) {
    char name[MAX_CLASS_NAME];
    fprintf(stderr, "generate: there is no class %.40s: give one of ", label);
    for (uint64_t i = 0; i < count && i < LISTED_CLASSES && next_name(&names, name); i++)
        fprintf(stderr, "%.40s, ", name);
    if (count > LISTED_CLASSES)
        fputs("... ", stderr);
    fprintf(stderr, "or its index from 0 to %llu.\n", (unsigned long long)count - 1);
    return false;
}

/* The class of that name or else index; without a label each seed has its own, and consecutive seeds show all. */
static bool class_index(const char *names, const struct request *request, int64_t *index) {
    char name[MAX_CLASS_NAME];
    uint64_t count = 0, number = 0;
    for (const char *rest = names; next_name(&rest, name); count++)
        if (request->label != NULL && strcmp(name, request->label) == 0) {
            *index = (int64_t)count;
            return true;
        }
    if (request->label != NULL && !whole_number(request->label, count - 1, &number))
        return no_such_class(names, request->label, count);
    *index = (int64_t)(request->label != NULL ? number : request->seed % count);
    return true;
}

/* ---- the image ------------------------------------------------------------------------------------------------- */

/* Binary PGM for gray levels, PPM for RGB. */
static bool write_image(const char *path, const struct generator *generator, const uint8_t *image) {
    FILE *file = fopen(path, "wb");
    if (file == NULL)
        return fail("%s cannot be written: %s.", path, strerror(errno));
    const size_t size = generator->height * generator->width * generator->channels;
    fprintf(file, "P%c\n%zu %zu\n255\n", generator->channels == 1 ? '5' : '6', generator->width, generator->height);
    const bool written = fwrite(image, 1, size, file) == size;
    return (fclose(file) == 0 && written) || fail("%s cannot be written: %s.", path, strerror(errno));
}

/* Whether the output is what the metadata promise: uint8 [1, height, width, channels]. */
static bool is_image(const struct generator *generator, const OrtValue *output) {
    const OrtApi *api = generator->api;
    OrtTensorTypeAndShapeInfo *info = NULL;
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    size_t count = 0;
    const bool read = ok(generator, api->GetTensorTypeAndShape(output, &info)) &&
                      ok(generator, api->GetTensorElementType(info, &type)) &&
                      ok(generator, api->GetTensorShapeElementCount(info, &count));
    api->ReleaseTensorTypeAndShapeInfo(info);
    return read && ((type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8 &&
                     count == generator->height * generator->width * generator->channels) ||
                    fail("the generator's output is not the image that its metadata promise."));
}

/* One run of the network on a batch of one. The label is NULL for a generator without classes. */
static bool run(const struct generator *generator, float *z, int64_t *label, const char *out) {
    const OrtApi *api = generator->api;
    const int64_t z_shape[] = {1, (int64_t)generator->latent_size}, label_shape[] = {1};
    const char *inputs[] = {"z", "label"}, *outputs[] = {"image"};
    OrtMemoryInfo *memory = NULL;
    OrtValue *values[] = {NULL, NULL}, *output = NULL;
    void *image = NULL;
    const bool done =
        ok(generator, api->CreateCpuMemoryInfo(OrtDeviceAllocator, OrtMemTypeDefault, &memory)) &&
        ok(generator, api->CreateTensorWithDataAsOrtValue(memory, z, generator->latent_size * sizeof *z, z_shape, 2,
                                                          ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &values[0])) &&
        (label == NULL ||
         ok(generator, api->CreateTensorWithDataAsOrtValue(memory, label, sizeof *label, label_shape, 1,
                                                           ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, &values[1]))) &&
        ok(generator, api->Run(generator->session, NULL, inputs, (const OrtValue *const *)values,
                               label == NULL ? 1 : 2, outputs, 1, &output)) &&
        is_image(generator, output) && ok(generator, api->GetTensorMutableData(output, &image)) &&
        write_image(out, generator, image);
    api->ReleaseValue(output);
    api->ReleaseValue(values[1]);
    api->ReleaseValue(values[0]);
    api->ReleaseMemoryInfo(memory);
    return done;
}

static bool generate(const struct generator *generator, const struct request *request) {
    const size_t size = generator->latent_size;
    const bool has_classes = strchr(generator->class_names, '"') != NULL;
    int64_t label = 0;
    if (!has_classes && request->label != NULL)
        return fail("this generator was trained without classes: leave out --label.");
    if (has_classes && !class_index(generator->class_names, request, &label))
        return false;
    float *z = malloc(2 * size * sizeof *z); /* the second half is for the z of --to-seed */
    if (z == NULL)
        return fail("there is not enough memory.");
    latent(request->seed, request->truncation, size, z);
    if (request->has_to_seed) {
        latent(request->to_seed, request->truncation, size, z + size);
        move(z, z + size, request->position, size);
    }
    const bool done = run(generator, z, has_classes ? &label : NULL, request->out);
    free(z);
    return done;
}

int main(int count, char **words) {
    struct request request;
    struct generator generator;
    if (!read_arguments(count, words, &request))
        return 2;
    const bool done = open_generator(&generator, request.onnx_file) && generate(&generator, &request);
    return close_generator(&generator) && done ? 0 : 2;
}
