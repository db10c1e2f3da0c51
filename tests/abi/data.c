/* Results and request contexts from C: what each function does, and what it says when it cannot.
 * Compiles as C11 and as C++17. */
#include "tap.h"

static nauthilus_backend_string text = NAUTHILUS_BACKEND_STRING_EMPTY;

static void fields(void) {
  static const nauthilus_backend_view groups[] = {
      NAUTHILUS_BACKEND_LITERAL("staff"), NAUTHILUS_BACKEND_LITERAL(""), {NULL, 0}};
  nauthilus_backend_result *result = NULL;
  int32_t flag = 7;
  size_t count = 7;

  OK("a result is made", nauthilus_backend_result_new(&result, &why));
  OK("a flag is read", nauthilus_backend_result_flag(result, NAUTHILUS_BACKEND_FIELD_AUTHENTICATED, &flag, &why));
  CHECK("a new result is not authenticated", flag == 0);
  OK("a flag is set", nauthilus_backend_result_set_flag(result, NAUTHILUS_BACKEND_FIELD_AUTHENTICATED, -5, &why));
  OK("the flag is read", nauthilus_backend_result_flag(result, NAUTHILUS_BACKEND_FIELD_AUTHENTICATED, &flag, &why));
  CHECK("any number but 0 is true", flag == 1);
  OK("the other flag", nauthilus_backend_result_flag(result, NAUTHILUS_BACKEND_FIELD_USER_FOUND, &flag, &why));
  CHECK("the other flag is its own", flag == 0);

  STATUS("a text that is not set", NAUTHILUS_BACKEND_NOT_FOUND,
         nauthilus_backend_result_text(result, NAUTHILUS_BACKEND_FIELD_ACCOUNT_FIELD, &text, &why));
  CHECK("it leaves the parameter alone", text.data == NULL);
  OK("a text is set", nauthilus_backend_result_set_text(result, NAUTHILUS_BACKEND_FIELD_ACCOUNT_FIELD, LIT("ma\0il"), &why));
  OK("the text is read", nauthilus_backend_result_text(result, NAUTHILUS_BACKEND_FIELD_ACCOUNT_FIELD, &text, &why));
  CHECK("it may have any bytes", is_text(&text, LIT("ma\0il")));
  OK("an empty text by a null pointer",
     nauthilus_backend_result_set_text(result, NAUTHILUS_BACKEND_FIELD_ACCOUNT_FIELD, NULL, 0, &why));
  OK("the empty text is read", nauthilus_backend_result_text(result, NAUTHILUS_BACKEND_FIELD_ACCOUNT_FIELD, &text, &why));
  CHECK("it is set, and empty", is_text(&text, "", 0));

  OK("a list is set", nauthilus_backend_result_set_list(result, NAUTHILUS_BACKEND_FIELD_GROUPS, groups, 3, &why));
  OK("the list is counted", nauthilus_backend_result_list_count(result, NAUTHILUS_BACKEND_FIELD_GROUPS, &count, &why));
  CHECK("it has what was set", count == 3);
  OK("the list is read", nauthilus_backend_result_list_at(result, NAUTHILUS_BACKEND_FIELD_GROUPS, 0, &text, &why));
  CHECK("in its order", is_text(&text, LIT("staff")));
  STATUS("an index too large", NAUTHILUS_BACKEND_OUT_OF_RANGE,
         nauthilus_backend_result_list_at(result, NAUTHILUS_BACKEND_FIELD_GROUPS, 3, &text, &why));
  CHECK("the reason names both numbers", strstr(why.data, "below 3") && strstr(why.data, "got 3"));
  OK("a field is cleared", nauthilus_backend_result_clear(result, NAUTHILUS_BACKEND_FIELD_GROUPS, &why));
  OK("it is counted", nauthilus_backend_result_list_count(result, NAUTHILUS_BACKEND_FIELD_GROUPS, &count, &why));
  CHECK("it is empty", count == 0);
  OK("another list", nauthilus_backend_result_set_list(result, NAUTHILUS_BACKEND_FIELD_GROUP_DNS, NULL, 0, &why));

  STATUS("no field", NAUTHILUS_BACKEND_INVALID_ARGUMENT,
         nauthilus_backend_result_flag(result, (nauthilus_backend_field)12, &flag, &why));
  STATUS("field 0", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_result_clear(result, (nauthilus_backend_field)0, &why));
  STATUS("a text taken for a flag", NAUTHILUS_BACKEND_INVALID_ARGUMENT,
         nauthilus_backend_result_set_flag(result, NAUTHILUS_BACKEND_FIELD_GROUPS, 1, &why));
  STATUS("a list taken for a text", NAUTHILUS_BACKEND_INVALID_ARGUMENT,
         nauthilus_backend_result_set_text(result, NAUTHILUS_BACKEND_FIELD_GROUPS, LIT("x"), &why));
  STATUS("a flag taken for a list", NAUTHILUS_BACKEND_INVALID_ARGUMENT,
         nauthilus_backend_result_list_count(result, NAUTHILUS_BACKEND_FIELD_USER_FOUND, &count, &why));
  STATUS("bytes without a pointer", NAUTHILUS_BACKEND_INVALID_ARGUMENT,
         nauthilus_backend_result_set_text(result, NAUTHILUS_BACKEND_FIELD_ACCOUNT_FIELD, NULL, 1, &why));
  STATUS("more bytes than there can be", NAUTHILUS_BACKEND_INVALID_ARGUMENT,
         nauthilus_backend_result_set_text(result, NAUTHILUS_BACKEND_FIELD_ACCOUNT_FIELD, "x", (size_t)-1, &why));
  STATUS("a list without a pointer", NAUTHILUS_BACKEND_INVALID_ARGUMENT,
         nauthilus_backend_result_set_list(result, NAUTHILUS_BACKEND_FIELD_GROUPS, NULL, 2, &why));
  CHECK("a failure without a place for the reason",
        nauthilus_backend_result_clear(NULL, NAUTHILUS_BACKEND_FIELD_GROUPS, NULL) == NAUTHILUS_BACKEND_INVALID_ARGUMENT);

  OK("a reference more", nauthilus_backend_result_retain(result, &why));
  nauthilus_backend_result_release(result);
  OK("it lives on", nauthilus_backend_result_flag(result, NAUTHILUS_BACKEND_FIELD_AUTHENTICATED, &flag, &why));
  nauthilus_backend_result_release(result);
  nauthilus_backend_result_release(NULL);
  nauthilus_backend_string_release(NULL);
}

static void attributes(void) {
  static const nauthilus_backend_view mails[] = {NAUTHILUS_BACKEND_LITERAL("a@b"), NAUTHILUS_BACKEND_LITERAL("c@d")};
  nauthilus_backend_result *result = NULL;
  nauthilus_backend_type type = NAUTHILUS_BACKEND_TYPE_TEXT;
  size_t count = 0;

  OK("a result", nauthilus_backend_result_new(&result, &why));
  OK("a text", nauthilus_backend_result_set_attribute(result, LIT("uid"), LIT("jane"), &why));
  OK("a list", nauthilus_backend_result_set_attribute_list(result, LIT("mail"), mails, 2, &why));
  OK("an integer", nauthilus_backend_result_set_attribute_integer(result, LIT("quota"), INT64_MIN, &why));
  OK("a number", nauthilus_backend_result_set_attribute_number(result, LIT("ratio"), 0.5, &why));
  OK("a boolean", nauthilus_backend_result_set_attribute_boolean(result, LIT("vip"), 2, &why));
  OK("the same once more", nauthilus_backend_result_set_attribute(result, LIT("uid"), LIT("jill"), &why));
  OK("they are counted", nauthilus_backend_result_attribute_count(result, &count, &why));
  CHECK("each once", count == 5);
  OK("the first name", nauthilus_backend_result_attribute_name_at(result, 0, &text, &why));
  CHECK("in order of names", is_text(&text, LIT("mail")));
  STATUS("no such name's index", NAUTHILUS_BACKEND_OUT_OF_RANGE, nauthilus_backend_result_attribute_name_at(result, 5, &text, &why));

  OK("values are counted", nauthilus_backend_result_attribute_value_count(result, LIT("mail"), &count, &why));
  CHECK("two of them", count == 2);
  OK("the second", nauthilus_backend_result_attribute_value_at(result, LIT("mail"), 1, &type, &text, &why));
  CHECK("a text", type == NAUTHILUS_BACKEND_TYPE_TEXT && is_text(&text, LIT("c@d")));
  OK("the integer", nauthilus_backend_result_attribute_value_at(result, LIT("quota"), 0, &type, &text, &why));
  CHECK("as it is", type == NAUTHILUS_BACKEND_TYPE_INTEGER && is_text(&text, LIT("-9223372036854775808")));
  OK("the number", nauthilus_backend_result_attribute_value_at(result, LIT("ratio"), 0, &type, &text, &why));
  CHECK("as it is", type == NAUTHILUS_BACKEND_TYPE_NUMBER && is_text(&text, LIT("0.5")));
  OK("the boolean", nauthilus_backend_result_attribute_value_at(result, LIT("vip"), 0, &type, &text, &why));
  CHECK("as it is", type == NAUTHILUS_BACKEND_TYPE_BOOLEAN && is_text(&text, LIT("true")));
  OK("the later of two", nauthilus_backend_result_attribute_value_at(result, LIT("uid"), 0, NULL, &text, &why));
  CHECK("counts; the type need not be asked for", is_text(&text, LIT("jill")));
  STATUS("no such value", NAUTHILUS_BACKEND_OUT_OF_RANGE,
         nauthilus_backend_result_attribute_value_at(result, LIT("uid"), 1, &type, &text, &why));
  STATUS("no such attribute", NAUTHILUS_BACKEND_NOT_FOUND,
         nauthilus_backend_result_attribute_value_at(result, LIT("no\nsuch"), 0, &type, &text, &why));
  CHECK("its name is shown on one line", strchr(why.data, '\n') == NULL);
  CHECK("a failure leaves both alone", type == NAUTHILUS_BACKEND_TYPE_BOOLEAN && text.data == NULL);
  STATUS("none to count", NAUTHILUS_BACKEND_NOT_FOUND,
         nauthilus_backend_result_attribute_value_count(result, LIT("none"), &count, &why));

  OK("one is taken out", nauthilus_backend_result_unset_attribute(result, LIT("vip"), &why));
  STATUS("and is gone", NAUTHILUS_BACKEND_NOT_FOUND, nauthilus_backend_result_unset_attribute(result, LIT("vip"), &why));
  OK("all are", nauthilus_backend_result_clear(result, NAUTHILUS_BACKEND_FIELD_ATTRIBUTES, &why));
  OK("counted again", nauthilus_backend_result_attribute_count(result, &count, &why));
  CHECK("none is left", count == 0);
  nauthilus_backend_result_release(result);
}

static int header_is(nauthilus_backend_context *context, size_t index, const char *name, const char *value) {
  nauthilus_backend_string its_name = NAUTHILUS_BACKEND_STRING_EMPTY, its_value = NAUTHILUS_BACKEND_STRING_EMPTY;
  return nauthilus_backend_context_header_at(context, index, &its_name, &its_value, NULL) == NAUTHILUS_BACKEND_OK &&
         is_text(&its_name, name, strlen(name)) + is_text(&its_value, value, strlen(value)) == 2;
}

static void contexts(void) {
  static const nauthilus_backend_view removed[] = {NAUTHILUS_BACKEND_LITERAL("mail"), NAUTHILUS_BACKEND_LITERAL("mail")};
  nauthilus_backend_context *context = NULL;
  nauthilus_backend_result *base = NULL, *applied = NULL, *final = NULL;
  nauthilus_backend_string name = NAUTHILUS_BACKEND_STRING_EMPTY;
  uint32_t port = 7;
  size_t count = 7;

  OK("a context is made", nauthilus_backend_context_new(&context, &why));
  OK("a base", nauthilus_backend_result_new(&base, &why));
  OK("what is applied", nauthilus_backend_result_new(&applied, &why));
  OK("headers of nothing", nauthilus_backend_context_header_count(context, &count, &why));
  CHECK("there are none", count == 0);
  STATUS("no selection", NAUTHILUS_BACKEND_NOT_FOUND, nauthilus_backend_context_selected(context, &text, &port, &why));
  CHECK("a failure leaves both alone", text.data == NULL && port == 7);

  nauthilus_backend_result_set_attribute(base, LIT("mail"), LIT("old"), NULL);
  nauthilus_backend_result_set_attribute(base, LIT("uid"), LIT("jane"), NULL);
  OK("the base is set", nauthilus_backend_context_set_base(context, base, &why));
  nauthilus_backend_result_set_attribute(applied, LIT("mail"), LIT("new"), NULL);
  nauthilus_backend_result_set_attribute_boolean(applied, LIT("vip"), 1, NULL);
  OK("a result is applied", nauthilus_backend_context_apply(context, applied, &why));
  CHECK("the base keeps its value", header_is(context, 0, "X-Nauthilus-Mail", "old"));
  OK("a name is removed", nauthilus_backend_context_remove(context, removed, 2, &why));
  CHECK("the applied one takes its place", header_is(context, 0, "X-Nauthilus-Mail", "new"));
  OK("the removed are counted", nauthilus_backend_context_removed_count(context, &count, &why));
  CHECK("each once", count == 1);
  OK("the removed name", nauthilus_backend_context_removed_at(context, 0, &text, &why));
  CHECK("is the one", is_text(&text, LIT("mail")));
  STATUS("no more of them", NAUTHILUS_BACKEND_OUT_OF_RANGE, nauthilus_backend_context_removed_at(context, 1, &text, &why));

  OK("a server is selected", nauthilus_backend_context_select(context, LIT("[::1]"), 993, &why));
  OK("the selection", nauthilus_backend_context_selected(context, &text, &port, &why));
  CHECK("without brackets", is_text(&text, LIT("::1")) && port == 993);
  OK("the headers are counted", nauthilus_backend_context_header_count(context, &count, &why));
  CHECK("two for the server, three for the attributes", count == 5);
  CHECK("the address", header_is(context, 0, "Auth-Server", "::1"));
  CHECK("the port", header_is(context, 1, "Auth-Port", "993"));
  CHECK("then by name", header_is(context, 3, "X-Nauthilus-Uid", "jane") && header_is(context, 4, "X-Nauthilus-Vip", "true"));
  STATUS("no more headers", NAUTHILUS_BACKEND_OUT_OF_RANGE,
         nauthilus_backend_context_header_at(context, 5, &name, &text, &why));
  CHECK("a failure leaves both alone", name.data == NULL && text.data == NULL);

  STATUS("port 0", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_context_select(context, LIT("::1"), 0, &why));
  STATUS("port 70000", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_context_select(context, LIT("::1"), 70000, &why));
  CHECK("the reason names it", strstr(why.data, "70000") != NULL);
  STATUS("no address", NAUTHILUS_BACKEND_REFUSED, nauthilus_backend_context_select(context, LIT("10.0.0.300"), 25, &why));
  nauthilus_backend_result_set_attribute(applied, LIT("mail"), LIT("a\r\nX-Evil: 1"), NULL);
  STATUS("a second header in a value", NAUTHILUS_BACKEND_REFUSED, nauthilus_backend_context_apply(context, applied, &why));
  CHECK("the reason names the attribute, not the value", strstr(why.data, "mail") && !strstr(why.data, "Evil"));
  STATUS("the same in a base", NAUTHILUS_BACKEND_REFUSED, nauthilus_backend_context_set_base(context, applied, &why));
  CHECK("nothing changed", header_is(context, 2, "X-Nauthilus-Mail", "new"));

  OK("the final result", nauthilus_backend_context_result(context, &final, &why));
  OK("its attributes", nauthilus_backend_result_attribute_count(final, &count, &why));
  CHECK("are the final ones", count == 3);
  OK("a context begins anew", nauthilus_backend_context_reset(context, &why));
  OK("its headers", nauthilus_backend_context_header_count(context, &count, &why));
  CHECK("are gone", count == 0);
  OK("one reference more", nauthilus_backend_context_retain(context, &why));
  nauthilus_backend_context_release(context);
  OK("it lives on", nauthilus_backend_context_reset(context, &why));
  nauthilus_backend_context_release(context);
  nauthilus_backend_context_release(NULL);
  nauthilus_backend_result_release(base);
  nauthilus_backend_result_release(applied);
  nauthilus_backend_result_release(final);
}

/* Every function that takes a pointer it needs says so when it is null. */
static void nulls(void) {
  nauthilus_backend_result *result = NULL;
  nauthilus_backend_context *context = NULL;
  nauthilus_backend_servers *servers = NULL;
  nauthilus_backend_server server;
  nauthilus_backend_type type;
  uint64_t generation;
  uint32_t port;
  int32_t flag;
  size_t count;
  const nauthilus_backend_field groups = NAUTHILUS_BACKEND_FIELD_GROUPS, account = NAUTHILUS_BACKEND_FIELD_ACCOUNT_FIELD;
  const nauthilus_backend_field found = NAUTHILUS_BACKEND_FIELD_USER_FOUND;
#define NULLS(call) STATUS("null: " #call, NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_##call)
  nauthilus_backend_result_new(&result, NULL);
  nauthilus_backend_context_new(&context, NULL);
  nauthilus_backend_context_select(context, LIT("::1"), 1, NULL);
  nauthilus_backend_result_set_attribute(result, LIT("a"), LIT("b"), NULL);
  nauthilus_backend_result_set_text(result, account, LIT("a"), NULL);
  NULLS(result_new(NULL, &why));
  NULLS(result_retain(NULL, &why));
  NULLS(result_set_flag(NULL, found, 1, &why));
  NULLS(result_flag(NULL, found, &flag, &why));
  NULLS(result_flag(result, found, NULL, &why));
  NULLS(result_set_text(NULL, account, LIT("a"), &why));
  NULLS(result_text(NULL, account, &text, &why));
  NULLS(result_text(result, account, NULL, &why));
  NULLS(result_set_list(NULL, groups, NULL, 0, &why));
  NULLS(result_list_count(NULL, groups, &count, &why));
  NULLS(result_list_count(result, groups, NULL, &why));
  NULLS(result_list_at(NULL, groups, 0, &text, &why));
  NULLS(result_list_at(result, groups, 0, NULL, &why));
  NULLS(result_clear(NULL, groups, &why));
  NULLS(result_set_attribute(NULL, LIT("a"), LIT("b"), &why));
  NULLS(result_set_attribute(result, NULL, 1, LIT("b"), &why));
  NULLS(result_set_attribute(result, LIT("a"), NULL, 1, &why));
  NULLS(result_set_attribute_list(NULL, LIT("a"), NULL, 0, &why));
  NULLS(result_set_attribute_list(result, LIT("a"), NULL, 1, &why));
  NULLS(result_set_attribute_integer(NULL, LIT("a"), 1, &why));
  NULLS(result_set_attribute_number(NULL, LIT("a"), 1, &why));
  NULLS(result_set_attribute_boolean(NULL, LIT("a"), 1, &why));
  NULLS(result_unset_attribute(NULL, LIT("a"), &why));
  NULLS(result_attribute_count(NULL, &count, &why));
  NULLS(result_attribute_count(result, NULL, &why));
  NULLS(result_attribute_name_at(NULL, 0, &text, &why));
  NULLS(result_attribute_name_at(result, 0, NULL, &why));
  NULLS(result_attribute_value_count(NULL, LIT("a"), &count, &why));
  NULLS(result_attribute_value_count(result, LIT("a"), NULL, &why));
  NULLS(result_attribute_value_at(NULL, LIT("a"), 0, &type, &text, &why));
  NULLS(result_attribute_value_at(result, LIT("a"), 0, &type, NULL, &why));
  NULLS(context_new(NULL, &why));
  NULLS(context_retain(NULL, &why));
  NULLS(context_set_base(NULL, result, &why));
  NULLS(context_set_base(context, NULL, &why));
  NULLS(context_apply(NULL, result, &why));
  NULLS(context_apply(context, NULL, &why));
  NULLS(context_remove(NULL, NULL, 0, &why));
  NULLS(context_remove(context, NULL, 1, &why));
  NULLS(context_removed_count(NULL, &count, &why));
  NULLS(context_removed_count(context, NULL, &why));
  NULLS(context_removed_at(NULL, 0, &text, &why));
  NULLS(context_removed_at(context, 0, NULL, &why));
  NULLS(context_select(NULL, LIT("::1"), 1, &why));
  NULLS(context_select(context, NULL, 1, 1, &why));
  NULLS(context_selected(NULL, &text, &port, &why));
  NULLS(context_selected(context, NULL, &port, &why));
  NULLS(context_selected(context, &text, NULL, &why));
  NULLS(context_header_count(NULL, &count, &why));
  NULLS(context_header_count(context, NULL, &why));
  NULLS(context_header_at(NULL, 0, &text, &text, &why));
  NULLS(context_header_at(context, 0, NULL, &text, &why));
  NULLS(context_header_at(context, 0, &text, NULL, &why));
  NULLS(context_result(NULL, &result, &why));
  NULLS(context_result(context, NULL, &why));
  NULLS(context_reset(NULL, &why));
  NULLS(configure_file(NULL, 1, &why));
  NULLS(configure_yaml(NULL, 1, &why));
  NULLS(generation(NULL, &why));
  NULLS(report_failure(NULL, 1, 1, &why));
  NULLS(servers_acquire(NULL, &why));
  NULLS(servers_retain(NULL, &why));
  NULLS(servers_generation(NULL, &generation, &why));
  NULLS(servers_count(NULL, &count, &why));
  NULLS(servers_at(NULL, 0, &server, sizeof server, &why));
  NULLS(check(NULL, 1, 1, NULL, 0, &why));
  NULLS(check(LIT("127.0.0.1"), 1, NULL, 1, &why));
  nauthilus_backend_servers_release(servers);
  nauthilus_backend_result_release(result);
  nauthilus_backend_context_release(context);
}

int main(void) {
  CHECK("the library is of the header's version", nauthilus_backend_abi_version() == NAUTHILUS_BACKEND_ABI_VERSION);
  CHECK("statuses have texts", strcmp(nauthilus_backend_status_text(NAUTHILUS_BACKEND_OK), "success") == 0);
  CHECK("an unknown one too", strlen(nauthilus_backend_status_text((nauthilus_backend_status)4711)) > 0);
  fields();
  attributes();
  contexts();
  nulls();
  CHECK("none of this needs the engine", nauthilus_backend_holds_engine() == 0);
  return tap_finish();
}
