//! The controllers over a real region state that is not replicated, and nodes that are played by the test.

mod level;
mod one_off;
mod region;
mod service;
mod units;
mod volumes;
