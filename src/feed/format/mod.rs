//! Feed formats: archives, plain lists, change lists and signed indexes.

pub(crate) mod changes;
pub(crate) mod plain_list;
pub(crate) mod signed_index;
pub(crate) mod zip;
