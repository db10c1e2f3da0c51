//! Builds the static library and the headers of Lua 5.5 into the folder that the argument names.
//!
//! Lua's checks of its C API are compiled in: a use of the API that the manual does not allow aborts
//! the test instead of passing by luck.

use std::process::exit;

fn main() {
    let Some(folder) = std::env::args().nth(1) else {
        eprintln!("usage: lua55 FOLDER");
        exit(2);
    };
    // The tests run on the machine that builds them.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let built = lua_src::Build::new()
        .out_dir(folder)
        .target(&target)
        .debug(true)
        .opt_level("1")
        .try_build(lua_src::Lua55);
    match built {
        Ok(artifacts) => println!("{}", artifacts.lib_dir().display()),
        Err(error) => {
            eprintln!("lua55: {error}");
            exit(1);
        }
    }
}
