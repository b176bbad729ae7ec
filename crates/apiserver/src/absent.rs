/// A resource of the core of Kubernetes that clients expect and that is not here, by its plural, and a sentence for who asks for it.
pub type Absent = (&'static str, &'static str);
