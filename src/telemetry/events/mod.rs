//! One struct per event. `emit()` writes its log line and updates its metrics.

/// Declares events: the level and the message of the log line, the fields with their names in it, and what is counted.
macro_rules! events {
    ($($(#[$about:meta])* $event:ident: $level:ident $message:literal {
        $($(#[$doc:meta])* $field:ident: $type:ty => [$($log:tt)+],)*
    } $count:expr;)*) => {$(
        $(#[$about])*
        pub struct $event<'a> { $($(#[$doc])* pub $field: $type,)* }

        impl $event<'_> {
            pub fn emit(&self, metrics: &Metrics) {
                let count: fn(&Metrics, &Self) = $count;
                count(metrics, self);
                let Self { $($field),* } = self;
                tracing::$level!($($($log)+,)* $message);
            }
        }
    )*};
}

pub mod approval_requests;
pub mod decisions;
pub mod feeds;
pub mod incidents;
pub mod requests;
