//! The process: what the engine needs from the operating system and cannot do safely itself.
