//! The XSAVE area of a vCPU, whose size KVM tells at run time.
#![expect(unsafe_code, reason = "the kernel reads and writes as many bytes as it said")]

use kvm_bindings::{Xsave, kvm_xsave};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;

/// Bytes of the area before Linux 5.17, and of its fixed part since.
const FIXED: usize = size_of::<kvm_xsave>();

/// Reads the area of `vcpu`, which is `bytes` long by `KVM_CAP_XSAVE2` (at least 4096).
pub(super) fn get(vcpu: &VcpuFd, bytes: usize) -> Result<Vec<u8>, errno::Error> {
    if bytes <= FIXED {
        return vcpu.get_xsave().map(|area| to_bytes(&area.region, &[]));
    }
    let mut area = allocate(bytes)?;
    // SAFETY: KVM_GET_XSAVE2 writes what KVM_CAP_XSAVE2 says, and `area` was allocated with that size.
    unsafe { vcpu.get_xsave2(&mut area)? };
    Ok(to_bytes(&area.as_fam_struct_ref().xsave.region, area.as_slice()))
}

/// Sets the area of `vcpu` to `data`, which may be of a host that keeps less or more: what is missing is empty.
///
/// # Errors
/// EINVAL when `data` is shorter than the fixed part, or has something behind `bytes`, the size by `KVM_CAP_XSAVE2`; otherwise what the
/// kernel says.
pub(super) fn set(vcpu: &VcpuFd, bytes: usize, data: &[u8]) -> Result<(), errno::Error> {
    let data = fitted(data, bytes.max(FIXED)).ok_or(errno::Error::new(libc::EINVAL))?;
    let mut area = allocate(data.len())?;
    let words = data.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]));
    let (fixed, rest): (Vec<_>, Vec<_>) = words.enumerate().partition(|(index, _)| *index < FIXED / 4);
    for (index, word) in rest {
        area.as_mut_slice()[index - FIXED / 4] = word;
    }
    // SAFETY: only the contents change, not the length that goes with the allocation.
    let header = unsafe { area.as_mut_fam_struct() };
    for (index, word) in fixed {
        header.xsave.region[index] = word;
    }
    // SAFETY: KVM_SET_XSAVE reads what KVM_CAP_XSAVE2 says, or 4096 bytes; `area` was allocated with that size.
    unsafe { vcpu.set_xsave2(&area) }
}

/// `data` in as many bytes, if nothing is lost.
fn fitted(data: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let (kept, rest) = data.split_at(data.len().min(bytes));
    if data.len() < FIXED || !data.len().is_multiple_of(4) || rest.iter().any(|byte| *byte != 0) {
        return None;
    }
    let mut fitted = kept.to_vec();
    fitted.resize(bytes, 0);
    Some(fitted)
}

fn allocate(bytes: usize) -> Result<Xsave, errno::Error> {
    Xsave::new(bytes.saturating_sub(FIXED).div_ceil(4)).map_err(|_| errno::Error::new(libc::ENOMEM))
}

fn to_bytes(fixed: &[u32], rest: &[u32]) -> Vec<u8> {
    fixed.iter().chain(rest).flat_map(|word| word.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_goes_to_hosts_that_keep_more_or_less_of_it_if_nothing_is_lost() {
        let small: Vec<u8> = (0..FIXED).map(|byte| byte as u8).collect();
        let large = fitted(&small, FIXED + 4096).unwrap();
        assert_eq!((large.len(), &large[..FIXED]), (FIXED + 4096, &small[..]));
        assert_eq!(fitted(&large, FIXED).unwrap(), small);
        let mut used = large;
        used[FIXED + 64] = 1;
        assert_eq!(fitted(&used, FIXED), None);
        assert_eq!((fitted(&small[4..], FIXED), fitted(&[0; FIXED + 1], FIXED)), (None, None));
    }
}
