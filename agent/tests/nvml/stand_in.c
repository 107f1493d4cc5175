/* A stand-in for NVIDIA's management library: eight GPUs that do as the file beside this library says, which is read
 * again at each call. That file has the library's name with ".control" after it; one command a line:
 *
 *   absent              the driver is not loaded
 *   mismatch            the driver is of another version than the library
 *   count N             there are N GPUs, not 8
 *   lost N              GPU N fell off the bus
 *   unknown N           the driver has an internal error with GPU N
 *   hang N              calls about how GPU N does return when this line has gone
 *   action N CODE       the driver wants GPU N recovered
 *   xid N CODE          GPU N reports an error: once for each such line of that GPU
 *   used N PID BYTES    a process uses GPU N
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, UNSUPPORTED = 3, SMALL = 7, NO_DRIVER = 9, TIMEOUT = 10, LOST = 15,
       MISMATCH = 18, UNKNOWN = 999 };
enum { GPUS = 8, GPUS_MAX = 64, XID_EVENT = 8, FIELD_ACTION = 230, COMMANDS_MAX = 256 };
#define MEMORY (80ull << 30)

typedef struct { char name[16]; unsigned long long a, b, c; int args; } command;
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory2;
typedef struct { unsigned gpu, memory; } rates;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } process;
typedef struct { void *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; } event;
typedef struct { unsigned field, scope; long long at, latency; unsigned type, answer; unsigned long long value; } field;
typedef struct { int gpu; } event_set;

/* Errors of each GPU that were reported. */
static int reported[GPUS_MAX];

static int read_commands(command *commands) {
    Dl_info self;
    char path[4096];
    if (!dladdr((void *)read_commands, &self)) return 0;
    snprintf(path, sizeof path, "%s.control", self.dli_fname);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    char line[256];
    int count = 0;
    while (count < COMMANDS_MAX && fgets(line, sizeof line, file)) {
        command *c = &commands[count];
        memset(c, 0, sizeof *c);
        c->args = sscanf(line, "%15s %llu %llu %llu", c->name, &c->a, &c->b, &c->c);
        if (c->args > 0) count++;
    }
    fclose(file);
    return count;
}

/* The first command of that name, for that GPU unless it is negative. */
static int find(const char *name, int gpu, command *found) {
    command commands[COMMANDS_MAX];
    int count = read_commands(commands);
    for (int i = 0; i < count; i++) {
        if (strcmp(commands[i].name, name)) continue;
        if (gpu >= 0 && commands[i].a != (unsigned long long)gpu) continue;
        if (found) *found = commands[i];
        return 1;
    }
    return 0;
}

static int driver(void) {
    if (find("absent", -1, NULL)) return NO_DRIVER;
    if (find("mismatch", -1, NULL)) return MISMATCH;
    return OK;
}

static int gpu_of(void *device) { return (int)(intptr_t)device - 1; }

/* How a call about a GPU begins: it may hang, and fail. */
static int ask(void *device) {
    int gpu = gpu_of(device);
    if (gpu < 0 || gpu >= GPUS_MAX) return INVALID;
    while (find("hang", gpu, NULL)) usleep(20 * 1000);
    if (driver()) return driver();
    if (find("lost", gpu, NULL)) return LOST;
    if (find("unknown", gpu, NULL)) return UNKNOWN;
    return OK;
}

static int text(char *into, unsigned length, const char *what) {
    if (strlen(what) >= length) return SMALL;
    strcpy(into, what);
    return OK;
}

static unsigned long long used(int gpu, process *into, unsigned *room) {
    command commands[COMMANDS_MAX];
    int count = read_commands(commands);
    unsigned long long sum = 0;
    unsigned n = 0;
    for (int i = 0; i < count; i++) {
        if (strcmp(commands[i].name, "used") || commands[i].a != (unsigned long long)gpu) continue;
        sum += commands[i].c;
        if (into && room && n < *room) into[n] = (process){(unsigned)commands[i].b, commands[i].c, ~0u, ~0u};
        n++;
    }
    if (room) *room = n;
    return sum;
}

int nvmlInit_v2(void) { return driver(); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the stand-in"; }
int nvmlSystemGetDriverVersion(char *into, unsigned length) { return text(into, length, "580.65.06"); }
int nvmlSystemGetNVMLVersion(char *into, unsigned length) { return text(into, length, "13.580.65.06"); }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12040; return OK; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    command said;
    *count = find("count", -1, &said) ? (unsigned)said.a : GPUS;
    return driver();
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    unsigned count = 0;
    if (nvmlDeviceGetCount_v2(&count)) return driver();
    if (index >= count) return INVALID;
    *device = (void *)(intptr_t)(index + 1);
    return find("lost", (int)index, NULL) ? LOST : OK;
}

int nvmlDeviceGetUUID(void *device, char *into, unsigned length) {
    char uuid[64];
    int answer = ask(device);
    snprintf(uuid, sizeof uuid, "GPU-00000000-0000-0000-0000-%012d", gpu_of(device));
    return answer ? answer : text(into, length, uuid);
}

int nvmlDeviceGetName(void *device, char *into, unsigned length) {
    int answer = ask(device);
    return answer ? answer : text(into, length, "NVIDIA Stand-In 80GB");
}

int nvmlDeviceGetMemoryInfo_v2(void *device, memory2 *into) {
    int answer = ask(device);
    if (answer) return answer;
    unsigned long long held = used(gpu_of(device), NULL, NULL);
    *into = (memory2){into->version, MEMORY, 0, MEMORY - held, held};
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *device, memory *into) {
    memory2 info = {0};
    int answer = nvmlDeviceGetMemoryInfo_v2(device, &info);
    *into = (memory){info.total, info.free, info.used};
    return answer;
}

int nvmlDeviceGetUtilizationRates(void *device, rates *into) {
    int answer = ask(device);
    *into = (rates){10u + (unsigned)gpu_of(device), 5};
    return answer;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *into) {
    (void)sensor;
    *into = 40u + (unsigned)gpu_of(device);
    return ask(device);
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *into) {
    *into = 250500;
    return ask(device);
}

int nvmlDeviceGetPciInfo_v3(void *device, pci *into) {
    int answer = ask(device);
    memset(into, 0, sizeof *into);
    into->bus = (unsigned)gpu_of(device);
    snprintf(into->bus_id, sizeof into->bus_id, "00000000:%02X:00.0", into->bus);
    return answer;
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    *major = 9;
    *minor = 0;
    return ask(device);
}

int nvmlDeviceGetFieldValues(void *device, int count, field *values) {
    int answer = ask(device);
    if (answer) return answer;
    for (int i = 0; i < count; i++) {
        command said;
        values[i].answer = values[i].field == FIELD_ACTION ? OK : UNSUPPORTED;
        values[i].type = 1;
        values[i].value = find("action", gpu_of(device), &said) ? said.b : 0;
    }
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, process *into) {
    int answer = ask(device);
    unsigned room = *count;
    if (answer) return answer;
    used(gpu_of(device), into, count);
    return *count > room ? SMALL : OK;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, process *into) {
    (void)into;
    *count = 0;
    return ask(device);
}

int nvmlEventSetCreate(event_set **set) {
    *set = malloc(sizeof **set);
    (*set)->gpu = -1;
    return OK;
}

int nvmlEventSetFree(event_set *set) {
    free(set);
    return OK;
}

int nvmlDeviceRegisterEvents(void *device, unsigned long long types, event_set *set) {
    if (types != XID_EVENT) return UNSUPPORTED;
    set->gpu = gpu_of(device);
    return OK;
}

int nvmlEventSetWait_v2(event_set *set, event *into, unsigned ms) {
    command commands[COMMANDS_MAX];
    int count = read_commands(commands), seen = 0;
    for (int i = 0; i < count; i++) {
        if (strcmp(commands[i].name, "xid") || commands[i].a != (unsigned long long)set->gpu) continue;
        if (seen++ < reported[set->gpu]) continue;
        reported[set->gpu]++;
        *into = (event){(void *)(intptr_t)(set->gpu + 1), XID_EVENT, commands[i].b, ~0u, ~0u};
        return OK;
    }
    usleep(ms * 1000);
    return TIMEOUT;
}
