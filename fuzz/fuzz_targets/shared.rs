#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_agent::fuzzing;

fuzz_target!(|bytes: &[u8]| (fuzzing::SHARED.body)(bytes));
