//! Kubernetes: the pods of our node, as the API server tells of them, and what is to be watched of each.
//!
//! [`watch`] lists and watches; [`pod`] is as much of a pod as we go by, [`selector`] and [`containers`] say which ones
//! are meant. What is said about a pod, by itself or by our configuration, is read in `config`.

pub mod containers;
pub mod pod;
pub mod selector;
pub mod watch;
