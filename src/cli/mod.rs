//! The command line: one file per subcommand. Parses arguments, calls `app`, and turns results into text and exit codes.

mod ca;
mod check;
mod client_config;
mod clients;
mod command_line;
mod config;
mod decisions;
mod doctor;
mod explain;
mod exposure;
mod feed;
mod flags;
mod healthcheck;
mod incident;
mod ledger;
mod lockfiles;
mod operator;
mod output;
mod policy;
mod registry_hosts;
mod request;
mod run;
mod running_server;
mod runtime;
mod serve;
mod signals;
mod token;
mod user;
mod vet;

pub use command_line::run;
