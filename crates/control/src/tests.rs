//! The controllers over a real region state that is not replicated, and nodes that are played by the test.

mod deployments;
mod each_node;
mod gates;
mod giving;
mod hooks;
mod labels;
mod level;
mod loss;
mod one_off;
mod rebalance;
mod region;
mod regions;
mod service;
mod units;
mod volumes;
