//! What is in the memory of this process, and in no file: keys, and secrets that were opened.

use std::io;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};

/// Has the kernel write no image of this process when it crashes, whatever limits and pattern say, and lets no process of the same user look
/// into it; root still can. Ends with an exec, so what is started from here, instances above all, is as it would have been.
///
/// # Errors
/// What the kernel says.
pub fn keep_private() -> io::Result<()> {
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
