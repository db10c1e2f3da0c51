/* Preloaded into a Sendmail of a test's own: what it gives to syslog goes to the file that
 * $SYSLOG_FILE names, and the machine's name is a whole one, without which Sendmail waits. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[512];

/* Sendmail empties its environment. */
__attribute__((constructor)) static void begin(void) {
  const char *named = getenv("SYSLOG_FILE");
  if (named) snprintf(path, sizeof path, "%s", named);
}

static void put(const char *format, va_list values) {
  char line[4096];
  int length = vsnprintf(line, sizeof line - 1, format, values);
  int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (length >= 0 && fd >= 0) {
    if (length > (int)sizeof line - 2) length = sizeof line - 2;
    line[length] = '\n';
    if (write(fd, line, (size_t)length + 1) < 0) _exit(99);
  }
  if (fd >= 0) close(fd);
}

void syslog(int priority, const char *format, ...) {
  va_list values;
  (void)priority;
  va_start(values, format);
  put(format, values);
  va_end(values);
}

void __syslog_chk(int priority, int flag, const char *format, ...) {
  va_list values;
  (void)priority, (void)flag;
  va_start(values, format);
  put(format, values);
  va_end(values);
}

int gethostname(char *name, size_t size) {
  strncpy(name, "mx.example.org", size);
  return 0;
}
