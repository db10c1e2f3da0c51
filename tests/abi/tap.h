/* What the C tests share: TAP, and short names for what each of them does often. */
#ifndef TAP_H
#define TAP_H

#include <stdio.h>
#include <string.h>

#include "nauthilus_backend.h"

static int tap_failures;

/* Pointer and length of a literal, as parameters. */
#define LIT(literal) (literal), sizeof(literal) - 1

#define CHECK(name, condition) tap_check((name), (condition), #condition, __LINE__)

/* Checks the status of a call; `reason` is then in `why`, until the next one. */
#define STATUS(name, expected, call)                                                       \
  do {                                                                                     \
    nauthilus_backend_status tap_got;                                                      \
    nauthilus_backend_string_release(&why);                                                \
    tap_got = (call);                                                                      \
    tap_check((name), tap_got == (expected), #call, __LINE__);                             \
    if (tap_got != (expected))                                                             \
      printf("# %s: %s\n", nauthilus_backend_status_text(tap_got), why.data ? why.data : ""); \
    tap_check(name ": a reason where it fails, and only there",                            \
              (why.data != NULL && why.size == strlen(why.data) && why.size > 0) ==        \
                  (tap_got != NAUTHILUS_BACKEND_OK), "the reason", __LINE__);              \
  } while (0)

#define OK(name, call) STATUS(name, NAUTHILUS_BACKEND_OK, call)

static nauthilus_backend_string why = NAUTHILUS_BACKEND_STRING_EMPTY;

static inline void tap_check(const char *name, int condition, const char *text, int line) {
  printf("%s - %s\n", condition ? "ok" : "not ok", name);
  if (!condition) {
    printf("# line %d: %s\n", line, text);
    tap_failures++;
  }
  fflush(stdout);
}

/* Whether a string that was given is `expected`; releases it. */
static inline int is_text(nauthilus_backend_string *string, const char *expected, size_t size) {
  int same = string->data != NULL && string->size == size && memcmp(string->data, expected, size) == 0 &&
             string->data[size] == '\0';
  if (!same)
    printf("# got '%s', expected '%s'\n", string->data ? string->data : "nothing", expected);
  nauthilus_backend_string_release(string);
  return same && string->data == NULL && string->size == 0;
}

static inline int tap_finish(void) {
  nauthilus_backend_string_release(&why);
  return tap_failures > 0;
}

#endif
