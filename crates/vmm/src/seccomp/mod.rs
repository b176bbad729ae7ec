//! Which system calls each thread may make.
//!
//! Filters of the kernel (seccomp(2)) hold for a thread and for all threads that it starts, and they add up: a call is made if
//! every filter on the way allows it. So there are two layers. The process takes the filter of [`Role::Process`] before it
//! starts its first thread: all that is needed anywhere, and nothing that makes a new program out of this one, looks into other
//! processes or changes the host. Every other thread adds the filter of its role, first thing. Threads that are needed while
//! the machine runs are started by the [launcher](crate::launcher), which has the filter of the process only: otherwise they
//! would be held to the filter of whoever needed them.
//!
//! * `roles`: the kinds of threads, and what each may do.
//! * `calls`, `ioctls`: system calls, in groups that are needed together.
//! * `violation`: what happens when a thread makes another one.

mod allocator;
mod calls;
mod ioctls;
mod roles;
mod violation;

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::OnceLock,
};

use config::Seccomp;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

pub(crate) use roles::Role;
use roles::{Allowed, Argument};

/// Why threads cannot be confined.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// A filter is not one that the kernel takes.
    #[error("The seccomp filter of {role} threads cannot be made")]
    Compile {
        /// Whose.
        role: String,
        /// Why.
        source: seccompiler::BackendError,
    },
    /// The kernel has no seccomp filters, or no memory for one.
    #[error(
        "A thread cannot be confined to the system calls of {role} threads: use a kernel with CONFIG_SECCOMP_FILTER, or \
         --seccomp off"
    )]
    Enter {
        /// Whose.
        role: String,
        /// What the kernel said.
        source: seccompiler::Error,
    },
    /// The handler that tells of a violation cannot be installed.
    #[error("The handler for forbidden system calls cannot be installed")]
    Handler(#[source] io::Error),
}

/// The filters of this process, once they are switched on. That is a property of the process, as is how it handles signals.
static FILTERS: OnceLock<HashMap<Role, BpfProgram>> = OnceLock::new();

/// Confines this process, and from now on every thread that says what it is. To be called once, before there are threads.
///
/// # Errors
/// The kernel refuses. Nothing must be run then as if it was confined.
pub(crate) fn switch_on(mode: Seccomp) -> Result<(), SeccompError> {
    let violation = match mode {
        Seccomp::Off => return Ok(()),
        Seccomp::On => SeccompAction::Trap,
        Seccomp::Log => SeccompAction::Log,
    };
    allocator::settle();
    violation::install_handler().map_err(SeccompError::Handler)?;
    let compiled = Role::ALL.into_iter().map(|role| {
        let program = compile(&role.allowed(), violation.clone());
        Ok((role, program.map_err(|source| SeccompError::Compile { role: role.name(), source })?))
    });
    let filters = FILTERS.get_or_init({
        let compiled = compiled.collect::<Result<_, _>>()?;
        || compiled
    });
    add(filters, Role::Process)
}

/// Confines the calling thread, for ever, to what threads of this kind need. Does nothing unless filters were switched on.
///
/// # Errors
/// The kernel refuses, for want of memory.
pub(crate) fn enter(role: Role) -> Result<(), SeccompError> {
    FILTERS.get().map_or(Ok(()), |filters| add(filters, role))
}

fn add(filters: &HashMap<Role, BpfProgram>, role: Role) -> Result<(), SeccompError> {
    // Every role was compiled; if one was not, the filter that allows nothing is the safe one.
    let program = filters.get(&role).map(Vec::as_slice).unwrap_or_default();
    seccompiler::apply_filter(program).map_err(|source| SeccompError::Enter { role: role.name(), source })
}

fn compile(allowed: &Allowed, violation: SeccompAction) -> Result<BpfProgram, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for &(call, argument) in &allowed.restricted {
        rules.entry(call).or_default().push(SeccompRule::new(vec![condition(argument)?])?);
    }
    // No rules for a call means that its arguments do not matter.
    rules.extend(allowed.calls.iter().map(|&call| (call, Vec::new())));
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, violation, SeccompAction::Allow, architecture)?.try_into()
}

/// Only the lower halves are compared: those are what the kernel looks at, of a request number as of flags.
fn condition(argument: Argument) -> Result<SeccompCondition, seccompiler::BackendError> {
    let (index, operator, value) = match argument {
        Argument::Is(index, value) => (index, SeccompCmpOp::Eq, value),
        Argument::Lacks(index, flags) => (index, SeccompCmpOp::MaskedEq(flags), 0),
        Argument::Has(index, flags) => (index, SeccompCmpOp::MaskedEq(flags), flags),
    };
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
}

#[cfg(test)]
mod tests;
