/* The C interface of nauthilus_backend: which mail and web servers are alive, and which of them
 * a login goes to.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Two kinds of file contain these functions: libnauthilus_backend.so, without Lua, and each
 * nauthilus_backend.so, the module for one Lua. A host that embeds Lua uses the functions of the
 * module that it loads, and does not need the library. See "Two copies" below.
 *
 * RULES FOR ALL FUNCTIONS
 *
 * Status. Every function that can fail returns a nauthilus_backend_status. On failure it writes no
 * out parameter. The comment of each function names the statuses that it can return. Two statuses
 * are not named again: NAUTHILUS_BACKEND_INVALID_ARGUMENT, which every function returns for a null
 * handle, a null out parameter, a null string or array whose length is not 0, or a number that is
 * not a constant of its enum; and NAUTHILUS_BACKEND_INTERNAL.
 *
 * Reason. The last parameter of every function that can fail is `reason`: null, or a string. On
 * failure, and only then, the function fills it with one line that says what was wrong and what
 * was expected. It overwrites the previous content and does not release it. A reason never
 * contains a secret of a configuration.
 *
 * Strings passed in are a pointer and a length in bytes, with any content. They are copied, so the
 * caller may free them after the call. The pointer may be null if the length is 0.
 *
 * Strings passed out are of two kinds. A nauthilus_backend_string belongs to the caller, who
 * releases it with nauthilus_backend_string_release(); nothing else invalidates it. A
 * nauthilus_backend_view is borrowed: the comment of its function says how long it is valid, and
 * it is never released. Both have a NUL after their bytes, which the length does not count.
 *
 * Handles are reference counted: _new, _acquire and _from_lua give one reference, _retain gives one
 * more, _release returns one; _release of null does nothing. A handle stays valid when the
 * lua_State that it came from is closed, and the Lua object when the handle is released. Using a
 * handle after its last release, or passing it to another copy of the library, is undefined
 * behaviour.
 *
 * Threads. Every function may be called from any thread at any time, also several at once with the
 * same handle: each call is atomic. There are three exceptions. A function with a lua_State may be
 * called only by the thread that may use this state. No function may be called in a signal
 * handler. A nauthilus_backend_string may be used by one thread at a time.
 *
 * Cancellation. pthread_cancel() does not interrupt a call: a thread that is inside one ends at its
 * next cancellation point after the call. Threads that use the library must not set the type
 * PTHREAD_CANCEL_ASYNCHRONOUS.
 *
 * Fork. Handles made before a fork work in the child, except a handle with which another thread was
 * inside a call at the moment of the fork. The child has the configuration and shares the verdicts;
 * the first call there that needs servers starts the engine thread.
 *
 * Process. The threads of the library block all signals. The library changes no signal handler,
 * limit, locale or environment variable. The file stays loaded after dlclose().
 *
 * Memory. If the system gives no memory, the process ends, as with any library in Rust. For each
 * thread that uses the library some hundred bytes are allocated; they are kept for another thread
 * when this one ends.
 */
#ifndef NAUTHILUS_BACKEND_H
#define NAUTHILUS_BACKEND_H

#include <stddef.h>
#include <stdint.h>

/* Rises with each incompatible change of this header. Compare it with what
 * nauthilus_backend_abi_version() returns. New functions, statuses and fields are no incompatible
 * changes. */
#define NAUTHILUS_BACKEND_ABI_VERSION 1

/* Initialises a nauthilus_backend_view, or a part of one, with a string literal. */
#define NAUTHILUS_BACKEND_LITERAL(literal) { (literal), sizeof(literal) - 1 }

/* Initialises a nauthilus_backend_string that holds nothing. */
#define NAUTHILUS_BACKEND_STRING_EMPTY { NULL, 0 }

#ifdef __cplusplus
extern "C" {
#endif

/* >>> ffi.cdef: the part from here to the line "<<< ffi.cdef" is plain C, which LuaJIT's
 * ffi.cdef accepts unchanged, once per Lua state. */

struct lua_State;

/* A number never changes its meaning, and the number of a removed status is not used again. */
typedef enum nauthilus_backend_status {
  NAUTHILUS_BACKEND_OK = 0,
  /* A null pointer, an unknown constant or a number out of its range. */
  NAUTHILUS_BACKEND_INVALID_ARGUMENT = 1,
  /* There is no such thing: a field that is not set, an attribute, a selection, a node. */
  NAUTHILUS_BACKEND_NOT_FOUND = 2,
  /* The index is not below the count. */
  NAUTHILUS_BACKEND_OUT_OF_RANGE = 3,
  /* A text is neither an address nor a host name, or an attribute cannot become a response
   * header. */
  NAUTHILUS_BACKEND_REFUSED = 4,
  /* The configuration cannot be read or is invalid. The previous one stays in force. */
  NAUTHILUS_BACKEND_CONFIGURATION = 5,
  /* Nothing has been configured yet. */
  NAUTHILUS_BACKEND_NOT_CONFIGURED = 6,
  /* The check of a server failed: the reason says why. */
  NAUTHILUS_BACKEND_CHECK_FAILED = 7,
  /* The given time is over. */
  NAUTHILUS_BACKEND_TIMEOUT = 8,
  /* The system refused a thread, a descriptor, shared memory or access to a file. */
  NAUTHILUS_BACKEND_SYSTEM = 9,
  /* Another copy of this library has the engine of this process. */
  NAUTHILUS_BACKEND_OTHER_COPY = 10,
  /* This copy is the library without Lua. */
  NAUTHILUS_BACKEND_NO_LUA = 11,
  /* The lua_State has not loaded the module of this copy. */
  NAUTHILUS_BACKEND_NOT_LOADED = 12,
  /* The Lua value is not a result, or not a request context, of this copy. */
  NAUTHILUS_BACKEND_WRONG_LUA_VALUE = 13,
  /* Lua raised an error: the reason is its text. */
  NAUTHILUS_BACKEND_LUA_ERROR = 14,
  /* A defect of the library. The call had no effect, or only a part of its effect. */
  NAUTHILUS_BACKEND_INTERNAL = 15,
  /* There is no server for the user: the reason is one of the texts of docs/routing.md. */
  NAUTHILUS_BACKEND_NO_ROUTE = 16,
  /* The route is not done yet: its descriptor becomes readable when it is. */
  NAUTHILUS_BACKEND_PENDING = 17,
  /* The call needs a store of bindings (`cluster`), and none is configured. */
  NAUTHILUS_BACKEND_NO_STORE = 18,
  /* The store of bindings has not answered within its `timeout`. The call may still take effect
   * there, but not after that time. */
  NAUTHILUS_BACKEND_STORE_UNAVAILABLE = 19
} nauthilus_backend_status;

/* The fields of a result, grouped by what they hold. */
typedef enum nauthilus_backend_field {
  /* Flags. */
  NAUTHILUS_BACKEND_FIELD_AUTHENTICATED = 1,
  NAUTHILUS_BACKEND_FIELD_USER_FOUND = 2,
  /* Texts: names of attributes. The attributes that the two TOTP fields name never become
   * headers. */
  NAUTHILUS_BACKEND_FIELD_ACCOUNT_FIELD = 3,
  NAUTHILUS_BACKEND_FIELD_TOTP_SECRET_FIELD = 4,
  NAUTHILUS_BACKEND_FIELD_TOTP_RECOVERY_FIELD = 5,
  NAUTHILUS_BACKEND_FIELD_UNIQUE_USER_ID_FIELD = 6,
  NAUTHILUS_BACKEND_FIELD_DISPLAY_NAME_FIELD = 7,
  /* The set of attributes: only nauthilus_backend_result_clear() accepts it. */
  NAUTHILUS_BACKEND_FIELD_ATTRIBUTES = 8,
  /* Lists of texts. */
  NAUTHILUS_BACKEND_FIELD_GROUPS = 9,
  NAUTHILUS_BACKEND_FIELD_GROUP_DNS = 10,
  NAUTHILUS_BACKEND_FIELD_WEBAUTHN_CREDENTIALS = 11
} nauthilus_backend_field;

/* The type of an attribute's value, as Lua sees it. */
typedef enum nauthilus_backend_type {
  NAUTHILUS_BACKEND_TYPE_TEXT = 1,
  NAUTHILUS_BACKEND_TYPE_INTEGER = 2,
  NAUTHILUS_BACKEND_TYPE_NUMBER = 3,
  NAUTHILUS_BACKEND_TYPE_BOOLEAN = 4
} nauthilus_backend_type;

/* Borrowed bytes. The comment of the function that fills a view says how long it is valid. */
typedef struct nauthilus_backend_view {
  const char *data;
  size_t size;
} nauthilus_backend_view;

/* Bytes that the caller owns and releases with nauthilus_backend_string_release(). Read only. */
typedef struct nauthilus_backend_string {
  const char *data;
  size_t size;
} nauthilus_backend_string;

/* A key and a value of a target's configuration, both as text. */
typedef struct nauthilus_backend_setting {
  nauthilus_backend_view key;
  nauthilus_backend_view value;
} nauthilus_backend_setting;

/* One server of a list. Flags are 0 or 1. Later versions add fields at the end. */
typedef struct nauthilus_backend_server {
  /* The address that the last good probe used; before that, the configured host. */
  nauthilus_backend_view ip;
  /* As configured, without a trailing dot. */
  nauthilus_backend_view host;
  /* imap, pop3, lmtp, smtp, sieve or http. */
  nauthilus_backend_view protocol;
  /* plain, implicit or starttls. */
  nauthilus_backend_view tls_mode;
  nauthilus_backend_view request_uri;
  /* 1..65535. */
  uint32_t port;
  /* Whether TLS starts with the first byte. */
  int32_t tls;
  int32_t tls_skip_verify;
  int32_t haproxy_v2;
  int32_t deep_check;
  /* The machine that serves users, and the set of machines that it belongs to. */
  nauthilus_backend_view node;
  nauthilus_backend_view pool;
  /* auto, drain or maintenance. */
  nauthilus_backend_view state;
  /* The node's share of users, 0..1000. */
  uint32_t weight;
} nauthilus_backend_server;

/* How a user's server was found. A text that is not known is empty, a number is 0. Later versions
 * add fields at the end. */
typedef struct nauthilus_backend_route_detail {
  /* hash: by rendezvous hashing. With a store also new, bound, moved, pinned, remembered,
   * fallback. */
  nauthilus_backend_view how;
  nauthilus_backend_view node;
  nauthilus_backend_view pool;
  /* Only with a binding: the node before, why the user was moved, and by whom. */
  nauthilus_backend_view from;
  nauthilus_backend_view reason;
  nauthilus_backend_view by;
  /* Only with a binding: when it began and when it ends, in milliseconds since 1970. */
  int64_t since;
  int64_t until;
  /* 1 if no node of the pool had all of its vital targets alive, so that nodes were chosen whose
   * matching target is alive; else 0. */
  int32_t degraded;
} nauthilus_backend_route_detail;

/* What a script or a host knows about a user: flags, fields, attributes and groups. */
typedef struct nauthilus_backend_result nauthilus_backend_result;

/* What scripts decide during one request: the selected server, attributes added and removed. */
typedef struct nauthilus_backend_context nauthilus_backend_context;

/* The servers that were alive at one moment. A list never changes. */
typedef struct nauthilus_backend_servers nauthilus_backend_servers;

/* The route of one user. */
typedef struct nauthilus_backend_routed nauthilus_backend_routed;

/* ---- The library ------------------------------------------------------------------------- */

/* The NAUTHILUS_BACKEND_ABI_VERSION that this copy was built with. Cannot fail. */
uint32_t nauthilus_backend_abi_version(void);

/* Whether this copy has the engine of the process: 1 or 0. Cannot fail.
 *
 * Two copies. If a process loads the library and a module, or the modules of two Luas, each copy
 * has its own data. Results and contexts work in each copy, but only in the copy that made them.
 * Only one copy has the engine, which probes: the first one that is configured or started, until
 * the process ends. Configuring or starting another copy fails with NAUTHILUS_BACKEND_OTHER_COPY
 * (in Lua `configure` raises an error), and the reason names the file whose functions to use. A
 * copy without the engine lists no servers; it can still make checks. If two copies are configured
 * at the same moment, both may be refused. */
int32_t nauthilus_backend_holds_engine(void);

/* Returns the meaning of a status in a few words, for use where there is no reason. The text is
 * static and never null, also for a number that is not a status. Cannot fail. */
const char *nauthilus_backend_status_text(nauthilus_backend_status status);

/* Releases the bytes of `string` and empties it. Null and an empty string are allowed. Must not be
 * called for a second copy of the struct after the first was released. Cannot fail. */
void nauthilus_backend_string_release(nauthilus_backend_string *string);

/* ---- Results ----------------------------------------------------------------------------- */

/* Makes an empty result. `*result` gets one reference. */
nauthilus_backend_status nauthilus_backend_result_new(
    nauthilus_backend_result **result, nauthilus_backend_string *reason);

/* Adds a reference. */
nauthilus_backend_status nauthilus_backend_result_retain(
    nauthilus_backend_result *result, nauthilus_backend_string *reason);

/* Drops a reference. Cannot fail; null does nothing. */
void nauthilus_backend_result_release(nauthilus_backend_result *result);

/* Sets a flag: 0 is false, any other `value` is true. INVALID_ARGUMENT: `field` is no flag. */
nauthilus_backend_status nauthilus_backend_result_set_flag(
    nauthilus_backend_result *result, nauthilus_backend_field field, int32_t value,
    nauthilus_backend_string *reason);

/* Gets a flag: 0 or 1. INVALID_ARGUMENT: `field` is no flag. */
nauthilus_backend_status nauthilus_backend_result_flag(
    const nauthilus_backend_result *result, nauthilus_backend_field field, int32_t *value,
    nauthilus_backend_string *reason);

/* Sets a text. INVALID_ARGUMENT: `field` is no text. */
nauthilus_backend_status nauthilus_backend_result_set_text(
    nauthilus_backend_result *result, nauthilus_backend_field field, const char *text,
    size_t text_size, nauthilus_backend_string *reason);

/* Gets a text, a copy for the caller to release. INVALID_ARGUMENT: `field` is no text.
 * NOT_FOUND: it is not set. */
nauthilus_backend_status nauthilus_backend_result_text(
    const nauthilus_backend_result *result, nauthilus_backend_field field,
    nauthilus_backend_string *text, nauthilus_backend_string *reason);

/* Sets a list to `count` texts; `texts` may be null if `count` is 0. INVALID_ARGUMENT: `field` is
 * no list. */
nauthilus_backend_status nauthilus_backend_result_set_list(
    nauthilus_backend_result *result, nauthilus_backend_field field,
    const nauthilus_backend_view *texts, size_t count, nauthilus_backend_string *reason);

/* How many texts a list has. INVALID_ARGUMENT: `field` is no list. */
nauthilus_backend_status nauthilus_backend_result_list_count(
    const nauthilus_backend_result *result, nauthilus_backend_field field, size_t *count,
    nauthilus_backend_string *reason);

/* Gets the text at `index`, from 0, of a list, a copy for the caller to release.
 * INVALID_ARGUMENT: `field` is no list. OUT_OF_RANGE: there is no such index; the list may have
 * changed since it was counted. */
nauthilus_backend_status nauthilus_backend_result_list_at(
    const nauthilus_backend_result *result, nauthilus_backend_field field, size_t index,
    nauthilus_backend_string *text, nauthilus_backend_string *reason);

/* Resets a field of any kind to its value in a new result: false, not set, or empty. */
nauthilus_backend_status nauthilus_backend_result_clear(
    nauthilus_backend_result *result, nauthilus_backend_field field,
    nauthilus_backend_string *reason);

/* Sets an attribute to one text. Names and values are checked when the result is applied or becomes
 * the base of a context, not here. */
nauthilus_backend_status nauthilus_backend_result_set_attribute(
    nauthilus_backend_result *result, const char *name, size_t name_size, const char *text,
    size_t text_size, nauthilus_backend_string *reason);

/* Sets an attribute to an array of `count` texts; `texts` may be null if `count` is 0. */
nauthilus_backend_status nauthilus_backend_result_set_attribute_list(
    nauthilus_backend_result *result, const char *name, size_t name_size,
    const nauthilus_backend_view *texts, size_t count, nauthilus_backend_string *reason);

/* Sets an attribute to an integer. Lua 5.1, 5.2 and LuaJIT read it as a floating-point number,
 * which is exact from -2^53 to 2^53. */
nauthilus_backend_status nauthilus_backend_result_set_attribute_integer(
    nauthilus_backend_result *result, const char *name, size_t name_size, int64_t value,
    nauthilus_backend_string *reason);

/* Sets an attribute to a number. */
nauthilus_backend_status nauthilus_backend_result_set_attribute_number(
    nauthilus_backend_result *result, const char *name, size_t name_size, double value,
    nauthilus_backend_string *reason);

/* Sets an attribute to a boolean: 0 is false, any other `value` is true. */
nauthilus_backend_status nauthilus_backend_result_set_attribute_boolean(
    nauthilus_backend_result *result, const char *name, size_t name_size, int32_t value,
    nauthilus_backend_string *reason);

/* Removes an attribute. NOT_FOUND: there is none of that name. */
nauthilus_backend_status nauthilus_backend_result_unset_attribute(
    nauthilus_backend_result *result, const char *name, size_t name_size,
    nauthilus_backend_string *reason);

/* How many attributes there are. */
nauthilus_backend_status nauthilus_backend_result_attribute_count(
    const nauthilus_backend_result *result, size_t *count, nauthilus_backend_string *reason);

/* Gets the name at `index`, from 0, in bytewise order of the names, a copy for the caller to
 * release. OUT_OF_RANGE: there is no such index; the attributes may have changed since they were
 * counted. */
nauthilus_backend_status nauthilus_backend_result_attribute_name_at(
    const nauthilus_backend_result *result, size_t index, nauthilus_backend_string *name,
    nauthilus_backend_string *reason);

/* How many values an attribute has: 1, or the length of its array. NOT_FOUND: there is none of
 * that name. */
nauthilus_backend_status nauthilus_backend_result_attribute_value_count(
    const nauthilus_backend_result *result, const char *name, size_t name_size, size_t *count,
    nauthilus_backend_string *reason);

/* Gets the value at `index`, from 0, of an attribute. `*type` gets its type, unless `type` is
 * null. `*text` gets the value as it is written in a header (integers without ".0", true, false),
 * a copy for the caller to release. NOT_FOUND: there is no attribute of that name. OUT_OF_RANGE:
 * there is no such index. */
nauthilus_backend_status nauthilus_backend_result_attribute_value_at(
    const nauthilus_backend_result *result, const char *name, size_t name_size, size_t index,
    nauthilus_backend_type *type, nauthilus_backend_string *text,
    nauthilus_backend_string *reason);

/* ---- Request contexts --------------------------------------------------------------------
 *
 * The final attributes are (base - removed) + applied, whatever the order of the calls. */

/* Makes an empty context. `*context` gets one reference. */
nauthilus_backend_status nauthilus_backend_context_new(
    nauthilus_backend_context **context, nauthilus_backend_string *reason);

/* Adds a reference. */
nauthilus_backend_status nauthilus_backend_context_retain(
    nauthilus_backend_context *context, nauthilus_backend_string *reason);

/* Drops a reference. Cannot fail; null does nothing. */
void nauthilus_backend_context_release(nauthilus_backend_context *context);

/* Sets the base result, from which scripts remove attributes and to which they add others. The
 * result is copied. REFUSED: an attribute cannot become a response header; nothing is changed
 * then. */
nauthilus_backend_status nauthilus_backend_context_set_base(
    nauthilus_backend_context *context, const nauthilus_backend_result *result,
    nauthilus_backend_string *reason);

/* Merges the attributes and groups of a result into the context. The result is copied. REFUSED: an
 * attribute cannot become a response header; nothing is changed then. */
nauthilus_backend_status nauthilus_backend_context_apply(
    nauthilus_backend_context *context, const nauthilus_backend_result *result,
    nauthilus_backend_string *reason);

/* Removes `count` attributes of the base result by name; `names` may be null if `count` is 0. */
nauthilus_backend_status nauthilus_backend_context_remove(
    nauthilus_backend_context *context, const nauthilus_backend_view *names, size_t count,
    nauthilus_backend_string *reason);

/* How many names were removed, each counted once. */
nauthilus_backend_status nauthilus_backend_context_removed_count(
    const nauthilus_backend_context *context, size_t *count, nauthilus_backend_string *reason);

/* Gets the removed name at `index`, from 0, in order of removal, a copy for the caller to release.
 * OUT_OF_RANGE: there is no such index. */
nauthilus_backend_status nauthilus_backend_context_removed_at(
    const nauthilus_backend_context *context, size_t index, nauthilus_backend_string *name,
    nauthilus_backend_string *reason);

/* Selects the server for the request; a later call replaces an earlier one. `ip` is an IPv4 or
 * IPv6 address (brackets are removed) or a host name. The host name of a configured target is
 * replaced by the target's current address. INVALID_ARGUMENT: `port` is not 1..65535. REFUSED:
 * `ip` is neither an address nor a host name. */
nauthilus_backend_status nauthilus_backend_context_select(
    nauthilus_backend_context *context, const char *ip, size_t ip_size, uint32_t port,
    nauthilus_backend_string *reason);

/* Gets the selected server, `*ip` for the caller to release. NOT_FOUND: none is selected. */
nauthilus_backend_status nauthilus_backend_context_selected(
    const nauthilus_backend_context *context, nauthilus_backend_string *ip, uint32_t *port,
    nauthilus_backend_string *reason);

/* How many response headers the context makes now. */
nauthilus_backend_status nauthilus_backend_context_header_count(
    const nauthilus_backend_context *context, size_t *count, nauthilus_backend_string *reason);

/* Gets the header at `index`, from 0: Auth-Server and Auth-Port if a server is selected, then
 * the attributes' headers sorted by name. Both strings are copies for the caller to release.
 * OUT_OF_RANGE: there is no such index. A change of the context may change the index of a header:
 * read the headers when the scripts are done. */
nauthilus_backend_status nauthilus_backend_context_header_at(
    const nauthilus_backend_context *context, size_t index, nauthilus_backend_string *name,
    nauthilus_backend_string *value, nauthilus_backend_string *reason);

/* Makes a new result: the base result with the final attributes and groups. `*result` gets one
 * reference. Later changes of the context do not change it. */
nauthilus_backend_status nauthilus_backend_context_result(
    const nauthilus_backend_context *context, nauthilus_backend_result **result,
    nauthilus_backend_string *reason);

/* Empties the context, the base result too, for hosts that use one context for several requests. */
nauthilus_backend_status nauthilus_backend_context_reset(
    nauthilus_backend_context *context, nauthilus_backend_string *reason);

/* ---- Servers -----------------------------------------------------------------------------
 *
 * A process has one engine, which its Lua states share. If nothing was configured, the
 * functions that need servers read the file that the environment variable
 * NAUTHILUS_BACKEND_CONFIG names, and return CONFIGURATION if that file is invalid. Each function
 * that can return CONFIGURATION can also return SYSTEM, if the system refuses what the file needs
 * (its log cannot be opened, for example), and OTHER_COPY. They start the engine thread, unless
 * nauthilus_backend_stop() has ended it. A thread does not survive a fork: call them, and
 * nauthilus_backend_start(), in the process that shall probe, not in its parent. */

/* Reads a YAML file and puts it in force in one step; unchanged targets keep their verdicts.
 * CONFIGURATION, SYSTEM, OTHER_COPY: the previous configuration stays in force.
 *
 * The section backend_server_monitoring has the keys connect_timeout, tls_timeout, deep_timeout,
 * connect_interval, deep_interval, fast_interval, helo_name, failure_threshold,
 * recovery_threshold, panic_threshold, initial_state, max_concurrent_probes, expose_attributes,
 * state_file, state_max_age, tls_full_handshake_interval, cert_warn, log, node_usable,
 * node_down_after, node_up_after, user_key, master_separator, detail_separator, drain_time,
 * cluster, and backend_servers, a list of targets.
 *
 * The table cluster has the keys redis, username, password_file, sentinel_password_file,
 * tls_ca_file, tls_cert_file, tls_key_file, prefix, timeout, retention, on_error, node_failover,
 * move_delay, min_stay, verdicts, key_file.
 *
 * A target has the keys protocol, host, port, tls, tls_mode, tls_skip_verify, tls_server_name,
 * tls_ca_file, tls_cert_file, tls_key_file, tls_min_version, haproxy_v2, deep_check,
 * test_username, test_password, auth_mechanism, allow_plaintext_auth, test_mailbox, request_uri,
 * http_method, http_host, expected_status, helo_name, node, pool, weight, vital, connect_timeout,
 * tls_timeout, deep_timeout, connect_interval, deep_interval, fast_interval, failure_threshold,
 * recovery_threshold, source_address. docs/configuration.md has defaults, ranges and meanings.
 * This call reads the files that the keys name; they are not read again later. */
nauthilus_backend_status nauthilus_backend_configure_file(
    const char *path, size_t path_size, nauthilus_backend_string *reason);

/* The same as nauthilus_backend_configure_file(), with the text of such a file. */
nauthilus_backend_status nauthilus_backend_configure_yaml(
    const char *text, size_t text_size, nauthilus_backend_string *reason);

/* Starts probing in this process; does nothing if the engine thread runs already. CONFIGURATION,
 * SYSTEM, OTHER_COPY. */
nauthilus_backend_status nauthilus_backend_start(nauthilus_backend_string *reason);

/* Ends probing in this process until the next start or configuration. Does not wait. */
nauthilus_backend_status nauthilus_backend_stop(nauthilus_backend_string *reason);

/* Waits until each target has had a first verdict, at most `milliseconds`; a negative number
 * waits for ever. Blocks. TIMEOUT. SYSTEM: no process probes, since this one was stopped or cannot
 * start. NOT_CONFIGURED, CONFIGURATION. */
nauthilus_backend_status nauthilus_backend_wait_ready(
    int64_t milliseconds, nauthilus_backend_string *reason);

/* Gets the number of the list of alive servers: it changes when the list changes. Does not start
 * the engine. NOT_CONFIGURED. */
nauthilus_backend_status nauthilus_backend_generation(
    uint64_t *generation, nauthilus_backend_string *reason);

/* Reports that the host's own traffic to an address (or host name) and port failed: the target
 * there is probed now, at most once per 100 ms; only the probe changes the verdict. NOT_FOUND: no
 * target has this address and port. INVALID_ARGUMENT: `port` is not 1..65535. NOT_CONFIGURED,
 * CONFIGURATION. */
nauthilus_backend_status nauthilus_backend_report_failure(
    const char *ip, size_t ip_size, uint32_t port, nauthilus_backend_string *reason);

/* Gets the servers that are alive now, in configured order. `*servers` gets one reference.
 * Never waits for a probe. NOT_CONFIGURED, CONFIGURATION. */
nauthilus_backend_status nauthilus_backend_servers_acquire(
    nauthilus_backend_servers **servers, nauthilus_backend_string *reason);

/* Adds a reference. */
nauthilus_backend_status nauthilus_backend_servers_retain(
    nauthilus_backend_servers *servers, nauthilus_backend_string *reason);

/* Drops a reference; with the last one the views into the list become invalid. Cannot fail; null
 * does nothing. */
void nauthilus_backend_servers_release(nauthilus_backend_servers *servers);

/* Gets the generation of this list. */
nauthilus_backend_status nauthilus_backend_servers_generation(
    const nauthilus_backend_servers *servers, uint64_t *generation,
    nauthilus_backend_string *reason);

/* How many servers are in the list; may be 0. */
nauthilus_backend_status nauthilus_backend_servers_count(
    const nauthilus_backend_servers *servers, size_t *count, nauthilus_backend_string *reason);

/* Fills `*server` with the server at `index`, from 0. `server_size` is sizeof *server in the
 * caller: a library with more fields writes only the first `server_size` bytes, a library with
 * fewer fields sets the rest to 0. The views are valid until the list's last release.
 * OUT_OF_RANGE: there is no such index. INVALID_ARGUMENT: the size is smaller than that of the
 * first version. */
nauthilus_backend_status nauthilus_backend_servers_at(
    const nauthilus_backend_servers *servers, size_t index, nauthilus_backend_server *server,
    size_t server_size, nauthilus_backend_string *reason);

/* Checks one server now: connects, sends the PROXY header, makes the TLS handshake and the
 * dialogue of the protocol, as `settings` say. Settings are keys of a target in the configuration
 * and their values as text ("tls" and "true", "connect_timeout" and "500ms"), except host and port;
 * `settings` may be null if `count` is 0. If a target is configured at that address, its protocol
 * and its TLS keys apply where `settings` lack them; the timeouts and helo_name of the
 * configuration apply likewise. Any other key that is left out has its default: for example, no
 * PROXY header is sent and no deep check is made. Blocks for at most the sum of the three timeouts,
 * and up to 10 seconds more while too many other probes are in flight. OK: the check succeeded.
 * CHECK_FAILED: it failed. TIMEOUT: there was no result within that time. INVALID_ARGUMENT: host,
 * port or a setting is wrong. */
nauthilus_backend_status nauthilus_backend_check(
    const char *host, size_t host_size, uint32_t port, const nauthilus_backend_setting *settings,
    size_t count, nauthilus_backend_string *reason);

/* ---- Routes ------------------------------------------------------------------------------
 *
 * A route is the server that a user belongs on. A filter is an array of keys and values as text:
 * fields of a server that must be equal ("protocol" and "imap", "tls" and "true"), and "pool",
 * which may occur several times: the first pool with a usable node counts. The filter may be null
 * if `count` is 0. The store is the Redis of `cluster`. */

/* Finds the server of a user. `*routed` gets one reference. Without a store it never waits; with
 * a store it blocks for at most the store's `timeout`. NO_ROUTE: there is no server.
 * INVALID_ARGUMENT: a key of the filter is unknown, or its value has the wrong type.
 * NOT_CONFIGURED, CONFIGURATION. */
nauthilus_backend_status nauthilus_backend_route(
    const char *user, size_t user_size, const nauthilus_backend_setting *filter, size_t count,
    nauthilus_backend_routed **routed, nauthilus_backend_string *reason);

/* Begins to find the server of a user and does not wait. `*routed` gets one reference;
 * nauthilus_backend_route_poll() says whether there is a server. NO_ROUTE: the name has no key.
 * INVALID_ARGUMENT, NOT_CONFIGURED, CONFIGURATION. */
nauthilus_backend_status nauthilus_backend_route_start(
    const char *user, size_t user_size, const nauthilus_backend_setting *filter, size_t count,
    nauthilus_backend_routed **routed, nauthilus_backend_string *reason);

/* Says whether a route is done. Never waits. OK: the server is found. PENDING: the route is not
 * done yet. NO_ROUTE: there is no server. */
nauthilus_backend_status nauthilus_backend_route_poll(
    const nauthilus_backend_routed *routed, nauthilus_backend_string *reason);

/* Gets a descriptor for an event loop: it becomes readable when the route is no longer pending. It
 * belongs to the route: do not read or close it. SYSTEM: the process has no free descriptor, or the
 * host has closed this one. */
nauthilus_backend_status nauthilus_backend_route_fd(
    const nauthilus_backend_routed *routed, int32_t *fd, nauthilus_backend_string *reason);

/* Fills `*server` with the server that was found; see nauthilus_backend_servers_at() for
 * `server_size`. The views are valid until the route's last release. PENDING, NO_ROUTE. */
nauthilus_backend_status nauthilus_backend_route_server(
    const nauthilus_backend_routed *routed, nauthilus_backend_server *server, size_t server_size,
    nauthilus_backend_string *reason);

/* Fills `*detail` with how the server was found; for `detail_size` and the views the same holds as
 * in nauthilus_backend_route_server(). PENDING, NO_ROUTE. */
nauthilus_backend_status nauthilus_backend_route_detail_of(
    const nauthilus_backend_routed *routed, nauthilus_backend_route_detail *detail,
    size_t detail_size, nauthilus_backend_string *reason);

/* Adds a reference. */
nauthilus_backend_status nauthilus_backend_route_retain(
    nauthilus_backend_routed *routed, nauthilus_backend_string *reason);

/* Drops a reference; with the last one its views become invalid, and a route that is pending is
 * given up. Cannot fail; null does nothing. */
void nauthilus_backend_route_release(nauthilus_backend_routed *routed);

/* Explains which server a login of the user would get now, as JSON, with the fields of
 * explain_route() in Lua. Changes nothing. With a store it blocks for at most the store's
 * `timeout`; if the store does not answer, the JSON's "problem" says why, and the rest is what a
 * login gets without the store. NO_ROUTE: the name has no key. INVALID_ARGUMENT, NOT_CONFIGURED,
 * CONFIGURATION. */
nauthilus_backend_status nauthilus_backend_explain_route(
    const char *user, size_t user_size, const nauthilus_backend_setting *filter, size_t count,
    nauthilus_backend_string *json, nauthilus_backend_string *reason);

/* Reports that these users have sessions on `node`: renews their bindings to this node and changes
 * no others. `*touched` gets how many of the users are bound to the node. Blocks for at most the
 * store's `timeout` per 500 users. NO_STORE, STORE_UNAVAILABLE. NOT_FOUND: the configuration has no
 * such node. INVALID_ARGUMENT, NOT_CONFIGURED, CONFIGURATION. */
nauthilus_backend_status nauthilus_backend_touch_users(
    const nauthilus_backend_view *users, size_t count, const char *node, size_t node_size,
    size_t *touched, nauthilus_backend_string *reason);

/* Binds a user to `node`. Options, as text: "keep" ("true": the binding has no end, and no failure
 * of the node moves the user), "reason", "by" (at most 100 bytes each). Blocks for at most the
 * store's `timeout`. NO_STORE, STORE_UNAVAILABLE. NOT_FOUND: the configuration has no such node.
 * NO_ROUTE: the name has no key. INVALID_ARGUMENT, NOT_CONFIGURED, CONFIGURATION. */
nauthilus_backend_status nauthilus_backend_move_user(
    const char *user, size_t user_size, const char *node, size_t node_size,
    const nauthilus_backend_setting *options, size_t count, nauthilus_backend_string *reason);

/* ---- Lua ---------------------------------------------------------------------------------
 *
 * These functions are for Lua states that have loaded this copy (require "nauthilus_backend", or
 * luaL_requiref with luaopen_nauthilus_backend). Call them from C: in a host, or in a C function
 * that Lua has called. Do not call them through LuaJIT's FFI with the state that makes the FFI
 * call. They raise no error and leave the stack unchanged, except that one of them pushes a value.
 * Each may also return NO_LUA, NOT_LOADED, and LUA_ERROR if Lua has no memory or no stack left. */

/* Gets the result at `index` of the stack: the script's own result, not a copy. `*result`
 * gets one reference. WRONG_LUA_VALUE: the value is not a result. */
nauthilus_backend_status nauthilus_backend_result_from_lua(
    struct lua_State *state, int index, nauthilus_backend_result **result,
    nauthilus_backend_string *reason);

/* Pushes a result: the same result, not a copy. The Lua state holds its own reference. */
nauthilus_backend_status nauthilus_backend_result_push_lua(
    struct lua_State *state, const nauthilus_backend_result *result,
    nauthilus_backend_string *reason);

/* Makes `context` the current request context of this state: the module's functions act on it,
 * except while a script uses another one in with_context(). The state holds its own reference until
 * another context is bound. Null: the state's default context is current again. LUA_ERROR also in
 * hosts with a context for each request, such as nginx, if there is no request. */
nauthilus_backend_status nauthilus_backend_context_bind_lua(
    struct lua_State *state, const nauthilus_backend_context *context,
    nauthilus_backend_string *reason);

/* Gets the request context at `index` of the stack, as context() and new_context() return it: the
 * script's own context, not a copy. `*context` gets one reference. WRONG_LUA_VALUE: the value is
 * not a request context. */
nauthilus_backend_status nauthilus_backend_context_from_lua(
    struct lua_State *state, int index, nauthilus_backend_context **context,
    nauthilus_backend_string *reason);

/* <<< ffi.cdef */

#ifdef __cplusplus
}
#endif

#endif
