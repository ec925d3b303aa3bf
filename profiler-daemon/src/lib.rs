//! profiler-daemon: a system-wide eBPF profiler.
//!
//! The kernel says what it saw; the daemon gives it meaning and carries it out of the house. `ARCHITECTURE.md`
//! is the plan: rooms meet in [`model`], only `app` knows them all, and the two halves, the agent and the
//! embedded server, meet in HTTP.

pub mod admin;
pub mod aggregate;
pub mod app;
pub mod attribute;
pub mod capture;
pub mod children;
pub mod cli;
pub mod config;
pub mod deliver;
pub mod doctor;
pub mod encode;
pub mod govern;
pub mod meters;
pub mod model;
pub mod pprof;
pub mod processes;
pub mod procfs;
pub mod querier;
pub mod query;
pub mod server;
pub mod socket;
pub mod symbolize;
pub mod time;
pub mod token;
