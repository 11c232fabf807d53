//! Measures a running Insula from outside: steady HTTP load with a record of every request, stories told under it, and
//! the budgets of the architecture.

pub mod budgets;
pub mod histories;
pub mod interrupt;
pub mod lab;
pub mod load;
pub mod page;
pub mod report;
pub mod starts;
pub mod story;
mod traffic;
pub mod visible;
pub mod wire;
pub mod writes;

pub use load::{Connections, Kind, Load};
pub use report::{Outcome, Record, Summary};
