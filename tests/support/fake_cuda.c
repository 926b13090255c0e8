/* Stands in for libcuda.so.1 and libnvidia-ml.so.1: answers with the cards of FAKE_CARDS.
 *
 * FAKE_CARDS: one card a line, "NAME|MIB|FREE MIB|MAJOR|MINOR"; CUDA_VISIBLE_DEVICES: which of them, by number or by
 * GPU-0000000N…; FAKE_CUDA_ERROR: what cuInit answers; FAKE_CUDA_HANGS: it never answers.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct card { char name[256]; unsigned long mib, free_mib; int major, minor, number; };
static struct card cards[16], all[16];
static int count, total;

static void read_cards(void) {
    const char *told = getenv("FAKE_CARDS"), *visible = getenv("CUDA_VISIBLE_DEVICES");
    count = total = 0;
    char *text = strdup(told ? told : ""), *save = NULL;
    for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save), total++) {
        struct card *card = &all[total];
        sscanf(line, "%255[^|]|%lu|%lu|%d|%d", card->name, &card->mib, &card->free_mib, &card->major, &card->minor);
        card->number = total;
    }
    if (!visible) { memcpy(cards, all, sizeof all); count = total; return; }
    char *words = strdup(visible);
    for (char *word = strtok_r(words, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
        int index = strncmp(word, "GPU-", 4) ? atoi(word) : (int)strtol(word + 4, NULL, 16) & 0xf;
        if (index < 0 || index >= total) break; /* as CUDA does: nothing behind a card that is not there */
        cards[count++] = all[index];
    }
}

int cuInit(unsigned flags) {
    if (getenv("FAKE_CUDA_HANGS")) for (;;) pause();
    if (getenv("FAKE_CUDA_ERROR")) return atoi(getenv("FAKE_CUDA_ERROR"));
    read_cards();
    return count ? 0 : 100;
}
int cuDeviceGetCount(int *result) { *result = count; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, cards[device].name, size); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = cards[device].mib << 20; return 0; }
int cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, 0, 16); uuid[3] = cards[device].number; return 0; }
int cuDeviceGetUuid(char *uuid, int device) { memset(uuid, 0xff, 16); return 0; } /* of the whole card */
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? cards[device].major : cards[device].minor;
    return 0;
}
int cuGetErrorString(int code, const char **text) {
    *text = code == 803 ? "system has unsupported display driver / cuda driver combination" : "some error";
    return 0;
}

int nvmlInit_v2(void) { read_cards(); return getenv("FAKE_NVML_SILENT") ? 9 : 0; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    const char *kind = getenv("FAKE_KIND") ? getenv("FAKE_KIND") : "GPU";
    if (strncmp(uuid, kind, 3)) return 2;
    *handle = &all[strtol(uuid + 4, NULL, 16) & 0xf];
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *memory) {
    struct card *card = handle;
    memory[0] = (unsigned long long)card->mib << 20;
    memory[1] = (unsigned long long)card->free_mib << 20;
    memory[2] = memory[0] - memory[1];
    return 0;
}
