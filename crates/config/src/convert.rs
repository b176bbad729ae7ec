/// What serde needs of types that are parsed from text and printed as text.
macro_rules! written_as_text {
    ($($name:ident)*) => { $(
        impl TryFrom<String> for $name {
            type Error = crate::ValueError;

            fn try_from(typed: String) -> Result<Self, crate::ValueError> {
                typed.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> Self {
                value.to_string()
            }
        }
    )* };
}
pub(crate) use written_as_text;
