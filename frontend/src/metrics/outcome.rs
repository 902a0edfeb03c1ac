//! What an input can be answered by.

macro_rules! outcomes {
    ($($(#[$doc:meta])* $outcome:ident = $name:literal,)*) => {
        /// What an input was answered by.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Outcome {
            $($(#[$doc])* $outcome,)*
        }

        impl Outcome {
            /// Every one, in the order of their discriminants.
            pub const ALL: &[Self] = &[$(Self::$outcome,)*];

            /// The name under which answers and metrics report it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$outcome => $name,)*
                }
            }
        }
    };
}

outcomes! {
    /// A model's output.
    Predicted = "predicted",
    /// An output that the model had given for an equal input before.
    Cached = "cached",
    /// The default output: the application is linked to no model.
    NoLinkedModels = "no_linked_models",
    /// The default output: no container could answer.
    NoConnectedReplicas = "no_connected_replicas",
    /// The default output: the objective passed.
    Deadline = "deadline",
    /// The default output: too many queries waited.
    QueueFull = "queue_full",
    /// The default output: too many requests were in progress.
    TooManyRequests = "too_many_requests",
    /// None: the inputs did not fit into a batch together.
    TooManyTogether = "too_many_together",
    /// The default output: the container failed.
    ContainerError = "container_error",
    /// The default output: the model's version was being withdrawn.
    Draining = "draining",
    /// The default output: the models were not sure enough.
    LowConfidence = "low_confidence",
}

impl Outcome {
    /// Whether it is the default output.
    pub const fn is_default(self) -> bool {
        !matches!(self, Self::Predicted | Self::Cached)
    }
}
