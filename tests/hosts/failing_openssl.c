/* Preloaded: refuses memory to OpenSSL alone; the script says which of its allocations. */
#define _GNU_SOURCE
#include <errno.h>
#include <link.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern void *__libc_malloc(size_t);
extern void *__libc_realloc(void *, size_t);

static struct {
  uintptr_t start, end;
} libraries[8];
static atomic_int known;
/* How many of OpenSSL's allocations there were since, and which of them are refused: from the
 * first to the last. */
static atomic_long counted, refused_from, refused_to;

static int note(struct dl_phdr_info *info, size_t size, void *data) {
  (void)size, (void)data;
  if (!strstr(info->dlpi_name, "/libcrypto.so") && !strstr(info->dlpi_name, "/libssl.so")) return 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr) *part = &info->dlpi_phdr[i];
    int at = atomic_load(&known);
    if (part->p_type != PT_LOAD || !(part->p_flags & PF_X) || at >= 8) continue;
    libraries[at].start = info->dlpi_addr + part->p_vaddr;
    libraries[at].end = libraries[at].start + part->p_memsz;
    atomic_store(&known, at + 1);
  }
  return 0;
}

/* refuse_openssl(from, to): refuses OpenSSL's allocations of these numbers from now on, counted
 * from 1. Returns how many there were since the call before. */
long refuse_openssl(long from, long to) {
  long before = atomic_load(&counted);
  if (!atomic_load(&known)) dl_iterate_phdr(note, NULL);
  atomic_store(&refused_from, from);
  atomic_store(&refused_to, to);
  atomic_store(&counted, 0);
  return before;
}

static int is_refused(void *caller) {
  uintptr_t at = (uintptr_t)caller;
  int libraries_known = atomic_load(&known);
  for (int i = 0; i < libraries_known; i++)
    if (at >= libraries[i].start && at < libraries[i].end) {
      long number = atomic_fetch_add(&counted, 1) + 1;
      return number >= atomic_load(&refused_from) && number <= atomic_load(&refused_to);
    }
  return 0;
}

void *malloc(size_t size) {
  if (is_refused(__builtin_return_address(0))) {
    errno = ENOMEM;
    return NULL;
  }
  return __libc_malloc(size);
}

void *realloc(void *old, size_t size) {
  if (is_refused(__builtin_return_address(0))) {
    errno = ENOMEM;
    return NULL;
  }
  return __libc_realloc(old, size);
}
