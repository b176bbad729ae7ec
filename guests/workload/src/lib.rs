//! The workload guest's rules, apart from the machine it runs on.
//!
//! A page's content, its checksum and what a fault in it looks like ([`page`]); what a page is filled
//! with ([`content`]); which CPU owns which page ([`share`]); how a rate is kept ([`pace`]); the words of
//! the command line ([`params`]); what the network and the disk are answered with ([`packet`], [`frames`],
//! [`sink`], [`sector`]); time out of a TSC ([`time`]). All of it is pure, so it is tested on the host.
#![cfg_attr(not(test), no_std)]

pub mod content;
pub mod frames;
pub mod pace;
pub mod packet;
pub mod page;
pub mod params;
pub mod sector;
pub mod share;
pub mod sink;
pub mod time;
