//! Counters of the kernel programs: one list gives index, metric label and meaning.

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident = $label:literal,)*) => {
        /// Index into the per-CPU map `COUNTERS`.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $($(#[doc = $doc])* $name,)*
        }

        impl Counter {
            /// Every counter, in index order.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Value of the metric label `event`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$name => $label,)*
                }
            }

            /// What was counted, for people.
            #[must_use]
            pub const fn means(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($doc),*),)*
                }
            }
        }
    };
}

counters! {
    /// A pod's connect was marked for capture.
    ConnectCaptured = "connect_captured",
    /// A fail-open pod's connect passed because no agent listens.
    ConnectFailedOpen = "connect_failed_open",
    /// A fail-closed pod's connect was refused because no agent listens.
    ConnectRefusedNoAgent = "connect_refused_no_agent",
    /// The pod has no address of the destination's family.
    ConnectRefusedFamily = "connect_refused_family",
    /// The socket is bound to a device and may not be unbound.
    ConnectRefusedDevice = "connect_refused_device",
    /// The socket is bound to an address that is not the pod's.
    ConnectRefusedSource = "connect_refused_source",
    /// Caller in a guarded cgroup, namespace not enrolled (yet).
    ConnectRefusedUnknownNetns = "connect_refused_unknown_netns",
    /// Caller in a pod's cgroup, socket of another namespace than that pod's.
    ConnectRefusedForeignSocket = "connect_refused_foreign_socket",
    /// Setting the mark failed.
    ConnectRefusedMark = "connect_refused_mark",
    /// A looped SYN was handed to the agent.
    SteeredOutbound = "steered_outbound",
    /// A SYN from outside the pod was handed to the agent.
    SteeredInbound = "steered_inbound",
    /// A delivery of the agent, or a probe, went to the application.
    SteerPassedTuple = "steer_passed_tuple",
    /// A prober's connection to a port that the pod's own probes name went to the application.
    SteerPassedProbe = "steer_passed_probe",
    /// A prober's connection to another port was handed to the agent, as anybody's is.
    SteerProbeElsewhere = "steer_probe_elsewhere",
    /// A fail-open pod's SYN passed because no agent listens.
    SteerFailedOpen = "steer_failed_open",
    /// A SYN to an address that is left alone (`mesh-agent.io/exclude-addresses`) went to the application.
    SteerExcluded = "steer_excluded",
    /// A SYN was dropped because no agent listens, or for an unknown address.
    SteerDropped = "steer_dropped",
    /// On a pod's link: a SYN on its way out that is not of the agent's was dropped.
    GuardRefusedSyn = "guard_refused_syn",
    /// On a pod's link: a SYN-ACK on its way out to which no SYN came that the agent took was dropped.
    GuardRefusedAnswer = "guard_refused_answer",
    /// On a pod's link: a SYN on its way in to another address than the pod's own was dropped.
    GuardRefusedAddress = "guard_refused_address",
    /// On a pod's link: what may be a SYN on its way out (a fragment, odd headers) was dropped.
    GuardRefusedUnclear = "guard_refused_unclear",
    /// On a fail-open pod's link: something passed because no agent listens.
    GuardFailedOpen = "guard_failed_open",
    /// A tuple could not be recorded (map full): that connection is refused.
    TupleInsertFailed = "tuple_insert_failed",
    /// A refusal event found the ring full.
    EventLost = "event_lost",
}
