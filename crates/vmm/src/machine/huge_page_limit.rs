//! What control groups let this process have of the host's huge pages. The kernel reserves pages without regard to that, and ends a process
//! (SIGBUS) that touches one more than its group may have.

use std::{
    fs, iter,
    path::{Path, PathBuf},
};

/// A control group, and bytes of huge pages of 2 MiB that its processes may still get.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) group: PathBuf,
    pub(super) bytes: u64,
}

/// The least that one of the control groups of this process leaves; `None` where none has a limit that can be seen.
pub(super) fn left() -> Option<Left> {
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    least(&groups, Path::new("/sys/fs/cgroup"))
}

/// The files of the limit and of what is in use, of the second version of control groups and of the first.
const SECOND: (&str, &str) = ("hugetlb.2MB.max", "hugetlb.2MB.current");
const FIRST: (&str, &str) = ("hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.usage_in_bytes");

/// `groups` is what /proc/self/cgroup says: number, controllers, path.
fn least(groups: &str, root: &Path) -> Option<Left> {
    let each = groups.lines().flat_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = parts.next().zip(parts.next()).unwrap_or_default();
        let (roots, files) = match controllers {
            // The second of these is where both versions are in use.
            "" => (vec![root.to_owned(), root.join("unified")], SECOND),
            _ if controllers.split(',').any(|name| name == "hugetlb") => {
                (vec![root.join(controllers)], FIRST)
            }
            _ => (Vec::new(), FIRST),
        };
        let path = PathBuf::from(path.trim_start_matches('/'));
        // Limits of the groups around a group hold too.
        roots.into_iter().flat_map(move |root| {
            let around: Vec<_> = iter::successors(Some(path.as_path()), |path| path.parent())
                .map(|it| root.join(it))
                .collect();
            around.into_iter().filter_map(move |group| of(group, files))
        })
    });
    each.min_by_key(|left| left.bytes)
}

fn of(group: PathBuf, (limit, usage): (&str, &str)) -> Option<Left> {
    let number = |name| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    // "max" is no number.
    let bytes = number(limit)?.saturating_sub(number(usage).unwrap_or(0));
    Some(Left { group, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(path: &Path, files: (&str, &str), limit: &str, usage: &str) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join(files.0), format!("{limit}\n")).unwrap();
        fs::write(path.join(files.1), format!("{usage}\n")).unwrap();
    }

    #[test]
    fn the_least_of_a_group_and_of_those_around_it_counts_in_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let inner = root.join("outer/inner");
        group(&inner, SECOND, "max", "0");
        assert_eq!(least("0::/outer/inner\n", root), None);
        group(&inner, SECOND, "8388608", "2097152");
        assert_eq!(least("0::/outer/inner\n", root), Some(Left { group: inner.clone(), bytes: 6 << 20 }));
        let outer = root.join("outer");
        group(&outer, SECOND, "8388608", "9000000");
        assert_eq!(least("0::/outer/inner\n", root), Some(Left { group: outer, bytes: 0 }));
        assert_eq!(least("0::/elsewhere\n", root), None);

        let first = root.join("hugetlb/a");
        group(&first, FIRST, "4194304", "0");
        let both = "3:memory:/a\n2:hugetlb:/a\n0::/elsewhere\nnonsense\n";
        assert_eq!(least(both, root), Some(Left { group: first, bytes: 4 << 20 }));
        let unified = root.join("unified/a");
        group(&unified, SECOND, "2097152", "0");
        assert_eq!(least("4:cpu:/a\n0::/a\n", root), Some(Left { group: unified, bytes: 2 << 20 }));
    }
}
