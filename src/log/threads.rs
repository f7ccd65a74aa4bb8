//! Owns the priority of threads whose work can wait for those that acknowledge.

use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};

/// How much they give way: a ninth of the others' share when the cores are busy.
const NICE: i32 = 10;

/// Lowers this thread's priority, and that of threads and processes that it starts. (On Linux the priority belongs to the
/// thread, not to the process; without privileges there is no way back.)
pub fn yield_to_others() {
    let _refused = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

/// Lets this thread, and those that it starts, run only while a core has nothing else to do (`SCHED_IDLE` of sched(7)): the
/// others need not wait for the end of its time slice, which at a lower priority they do. For work without an end in sight
/// that nobody else waits for; it must hold no lock for longer than a moment.
pub fn run_when_idle() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    if set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle).is_err() {
        yield_to_others();
    }
}
