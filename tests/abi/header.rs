//! The C header declares what the library has: functions, structures and constants are read from
//! the header and from the source, and compared. Equal fields in equal order, of types of known
//! size, make structures of equal size.

use std::collections::BTreeMap;
use std::error::Error;
use std::fs;
use std::path::Path;

type Outcome = Result<(), Box<dyn Error>>;

/// A declaration as its tokens.
type Tokens = Vec<String>;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[test]
fn functions_are_declared_as_they_are_defined() -> Outcome {
    let declared = functions_of_header(&cdef(&header()?)?);
    assert!(declared.len() > 40, "only {} were found", declared.len());

    let mut defined = BTreeMap::new();
    for (path, source) in sources("src/abi")? {
        for (name, signature) in functions_of_source(&source)? {
            let before = defined.insert(name.clone(), signature);
            assert!(before.is_none(), "{path} defines {name} a second time");
        }
    }
    for (name, signature) in &defined {
        assert_eq!(declared.get(name), Some(signature), "{name}");
    }
    assert_eq!(
        declared.len(),
        defined.len(),
        "the header has functions that are not defined"
    );

    // The module has these instead of `no_lua.rs`.
    let bridge = functions_of_source(&read("src/lua/bridge.rs")?)?;
    let without = functions_of_source(&read("src/abi/no_lua.rs")?)?;
    assert_eq!(bridge, without);
    assert_eq!(bridge.len(), 4);
    Ok(())
}

#[test]
fn structures_have_the_same_fields() -> Outcome {
    let text = cdef(&header()?)?;
    let mut source = String::new();
    for file in ["text", "owned_string", "servers", "routing"] {
        source += &read(&format!("src/abi/{file}.rs"))?;
    }
    for (c, rust) in [
        ("nauthilus_backend_view", "View"),
        ("nauthilus_backend_string", "OwnedString"),
        ("nauthilus_backend_setting", "CheckSetting"),
        ("nauthilus_backend_server", "Server"),
        ("nauthilus_backend_route_detail", "RouteDetail"),
    ] {
        let declared = body(&text, &format!("typedef struct {c} {{"))?;
        let declared: Vec<Tokens> = items(declared, ';').map(tokens).collect();
        let defined = body(&source, &format!("#[repr(C)]\npub(crate) struct {rust} {{"))
            .or_else(|_| body(&source, &format!("#[repr(C)]\npub(super) struct {rust} {{")))
            .or_else(|_| body(&source, &format!("#[repr(C)]\nstruct {rust} {{")))?;
        let defined: Result<Vec<Tokens>, _> = items(defined, ',').map(parameter).collect();
        assert_eq!(declared, defined?, "{c}");
        assert!(!declared.is_empty());
    }
    Ok(())
}

#[test]
fn constants_have_the_same_numbers() -> Outcome {
    let text = cdef(&header()?)?;
    for (c, file, rust) in [
        ("status", "src/abi/status.rs", "Status"),
        ("field", "src/abi/result.rs", "Field"),
        ("type", "src/abi/attribute.rs", "Type"),
    ] {
        let declared = body(&text, &format!("typedef enum nauthilus_backend_{c} {{"))?;
        let source = without_comments(&read(file)?, "//");
        let defined = body(&source, &format!("#[repr(i32)]\npub(crate) enum {rust} {{"))
            .or_else(|_| body(&source, &format!("#[repr(i32)]\nenum {rust} {{")))?;
        let prefix = match c {
            "status" => "NAUTHILUS_BACKEND_".to_owned(),
            _ => format!("NAUTHILUS_BACKEND_{}_", c.to_uppercase()),
        };
        let declared: Vec<String> = items(declared, ',')
            .map(|i| i.split_whitespace().collect())
            .collect();
        let defined: String = defined
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .collect();
        let defined: Vec<String> = items(&defined, ',')
            .filter_map(|item| {
                let (name, number) = item.split_once('=')?;
                Some(format!(
                    "{prefix}{}={}",
                    screaming(name.trim()),
                    number.trim()
                ))
            })
            .collect();
        assert_eq!(declared, defined);
        assert!(declared.len() > 3);
    }
    Ok(())
}

#[test]
fn a_difference_would_be_found() -> Outcome {
    let declared = functions_of_header("int nauthilus_backend_f(const char *text, size_t size);");
    let source = |parameters: &str| {
        functions_of_source(&format!(
            "#[unsafe(no_mangle)]\nunsafe extern \"C\" fn nauthilus_backend_f({parameters}) -> c_int {{"
        ))
    };
    assert_eq!(declared, source("text: *const c_char, size: usize")?);
    assert_ne!(declared, source("text: *mut c_char, size: usize")?);
    assert_ne!(declared, source("size: usize, text: *const c_char")?);
    assert_ne!(declared, source("text: *const c_char, size: u32")?);
    assert_ne!(declared, source("text: *const c_char")?);
    Ok(())
}

fn read(path: &str) -> Result<String, Box<dyn Error>> {
    Ok(fs::read_to_string(Path::new(ROOT).join(path))?)
}

fn header() -> Result<String, Box<dyn Error>> {
    read("include/nauthilus_backend.h")
}

/// Path and text of each file of a folder.
fn sources(folder: &str) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(Path::new(ROOT).join(folder))? {
        let path = entry?.path();
        found.push((path.display().to_string(), fs::read_to_string(&path)?));
    }
    Ok(found)
}

/// The part that LuaJIT takes, which has all declarations, without its comments.
fn cdef(header: &str) -> Result<String, Box<dyn Error>> {
    let (_, rest) = header
        .split_once("/* >>> ffi.cdef")
        .ok_or("no begin of the cdef part")?;
    let (part, _) = rest
        .split_once("/* <<< ffi.cdef */")
        .ok_or("no end of the cdef part")?;
    let part = format!("/*{part}");
    Ok(without_comments(&part, "/*"))
}

fn without_comments(text: &str, start: &str) -> String {
    let end = if start == "/*" { "*/" } else { "\n" };
    let mut rest = text;
    let mut kept = String::new();
    while let Some((before, comment)) = rest.split_once(start) {
        kept.push_str(before);
        rest = comment.split_once(end).map_or("", |(_, after)| after);
    }
    kept + rest
}

/// What is between `start` and the brace that closes it.
fn body<'a>(text: &'a str, start: &str) -> Result<&'a str, Box<dyn Error>> {
    let (_, rest) = text
        .split_once(start)
        .ok_or_else(|| format!("no '{start}'"))?;
    let (body, _) = rest
        .split_once('}')
        .ok_or_else(|| format!("no end of '{start}'"))?;
    Ok(body)
}

fn items(text: &str, separator: char) -> impl Iterator<Item = &str> {
    text.split(separator)
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

/// Words and stars.
fn tokens(text: &str) -> Tokens {
    let spaced = text.replace('*', " * ");
    spaced.split_whitespace().map(str::to_owned).collect()
}

/// Name and signature of each function that is declared.
fn functions_of_header(text: &str) -> BTreeMap<String, Vec<Tokens>> {
    let statements = text
        .split(';')
        .filter(|s| s.contains('(') && !s.contains('{'));
    let mut found = BTreeMap::new();
    for statement in statements {
        let (head, rest) = statement.split_once('(').unwrap_or((statement, ""));
        let mut head = tokens(head);
        let name = head.pop().unwrap_or_default();
        let parameters = rest.trim_end().trim_end_matches(')');
        let mut signature = vec![head];
        signature.extend(
            items(parameters, ',')
                .map(tokens)
                .filter(|p| p != &["void"]),
        );
        found.insert(name, signature);
    }
    found
}

/// Name and signature, as C has it, of each function that is exported.
fn functions_of_source(text: &str) -> Result<BTreeMap<String, Vec<Tokens>>, Box<dyn Error>> {
    let text = with_macros_expanded(text)?;
    let mut found = BTreeMap::new();
    for part in text.split("#[unsafe(no_mangle)]").skip(1) {
        let (_, rest) = part
            .split_once(" fn ")
            .ok_or("no function after no_mangle")?;
        let (name, rest) = rest.split_once('(').ok_or("no parameters")?;
        // The definition of a macro.
        if name.starts_with('$') {
            continue;
        }
        let (parameters, rest) = rest.split_once(')').ok_or("no end of parameters")?;
        let (returned, _) = rest.split_once('{').ok_or("no body")?;
        let returned = match returned.trim().strip_prefix("->") {
            Some(returned) => c_type(returned.trim())?,
            None => vec!["void".to_owned()],
        };
        let mut signature = vec![returned];
        for item in items(parameters, ',') {
            signature.push(parameter(item)?);
        }
        found.insert(name.to_owned(), signature);
    }
    Ok(found)
}

/// The text with the signatures that `reference_counted!` and `exported!` of `src/abi` make.
fn with_macros_expanded(text: &str) -> Result<String, Box<dyn Error>> {
    let mut counted = String::new();
    for part in text.split("\nreference_counted!(").skip(1) {
        let (arguments, rest) = part
            .split_once(");")
            .ok_or("no end of reference_counted!")?;
        let [retain, release, handle] = items(arguments, ',').collect::<Vec<_>>()[..] else {
            return Err(format!("three arguments expected, got '{arguments}'").into());
        };
        let (name, kind) = handle.split_once(": ").ok_or("no type of a handle")?;
        counted += &format!(
            "\nexported!(fn {retain}({name}: *mut {kind}) -> Done {{}});
            #[unsafe(no_mangle)] unsafe extern \"C\" fn {release}({name}: *mut {kind}) {{}}{rest}"
        );
    }
    let counted = text
        .split("\nreference_counted!(")
        .next()
        .unwrap_or("")
        .to_owned()
        + &counted;
    let mut expanded = String::new();
    for (index, part) in counted.split("\nexported!(").enumerate() {
        if index == 0 {
            expanded += part;
            continue;
        }
        let (head, rest) = part
            .split_once(") -> Done {")
            .ok_or("no '-> Done' in exported!")?;
        let head = head.trim_end().trim_end_matches(',');
        let separator = if head.ends_with('(') { "" } else { "," };
        expanded += &format!(
            "\n#[unsafe(no_mangle)] unsafe extern \"C\" {head}{separator} reason: *mut OwnedString) -> Status {{{rest}"
        );
    }
    Ok(expanded)
}

/// `pub(crate) data: *const c_char` as C has it.
fn parameter(item: &str) -> Result<Tokens, Box<dyn Error>> {
    let (name, kind) = item.split_once(':').ok_or_else(|| format!("'{item}'"))?;
    let name = name.trim().trim_start_matches("pub(crate) ");
    let mut declaration = c_type(kind.trim())?;
    declaration.push(
        name.trim_start_matches("r#")
            .trim_start_matches('_')
            .to_owned(),
    );
    Ok(declaration)
}

/// A type of the source as C has it.
fn c_type(rust: &str) -> Result<Tokens, Box<dyn Error>> {
    if let Some(inner) = rust.strip_prefix("*mut ") {
        let mut pointer = c_type(inner)?;
        pointer.push("*".to_owned());
        return Ok(pointer);
    }
    if let Some(inner) = rust.strip_prefix("*const ") {
        let mut pointer = vec!["const".to_owned()];
        pointer.extend(c_type(inner)?);
        pointer.push("*".to_owned());
        return Ok(pointer);
    }
    let c = match rust {
        "c_char" => "char",
        "c_int" => "int",
        "i32" => "int32_t",
        "u32" => "uint32_t",
        "i64" => "int64_t",
        "u64" => "uint64_t",
        "f64" => "double",
        "usize" => "size_t",
        "lua_State" | "LuaState" => "struct lua_State",
        "Status" | "StatusCode" => "nauthilus_backend_status",
        "FieldCode" => "nauthilus_backend_field",
        "TypeCode" => "nauthilus_backend_type",
        "View" => "nauthilus_backend_view",
        "OwnedString" => "nauthilus_backend_string",
        "CheckSetting" => "nauthilus_backend_setting",
        "Server" => "nauthilus_backend_server",
        "ResultHandle" => "nauthilus_backend_result",
        "ContextHandle" => "nauthilus_backend_context",
        "ServersHandle" => "nauthilus_backend_servers",
        "RoutedHandle" => "nauthilus_backend_routed",
        "RouteDetail" => "nauthilus_backend_route_detail",
        other => return Err(format!("no type of C is known for '{other}'").into()),
    };
    Ok(tokens(c))
}

/// `GroupDns` as `GROUP_DNS`.
fn screaming(name: &str) -> String {
    let mut shouted = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !shouted.is_empty() {
            shouted.push('_');
        }
        shouted.push(letter.to_ascii_uppercase());
    }
    shouted
}
