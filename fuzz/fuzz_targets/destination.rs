#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| prove::fuzzing::run("destination", bytes));
