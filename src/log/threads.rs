//! Owns the priority of threads whose work can wait for those that acknowledge.

/// How much they give way: a ninth of the others' share when the cores are busy.
const NICE: i32 = 10;

/// Lowers this thread's priority, and that of threads and processes that it starts. (On Linux the priority belongs to the
/// thread, not to the process; without privileges there is no way back.)
pub fn yield_to_others() {
    let _refused = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}
