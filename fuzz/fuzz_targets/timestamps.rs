#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| stagepost_fuzz::timestamps::run(data));
