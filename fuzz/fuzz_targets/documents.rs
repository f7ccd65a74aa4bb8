#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stagepost_fuzz::documents::run(data));
