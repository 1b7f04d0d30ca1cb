// SPDX-License-Identifier: Apache-2.0

extension FlowRule {
    /// Whether every packet that the other rule could have, this one matches, too: what somebody who may have this rule may ask for.
    ///
    /// Never true where it is not so. Where the two say the same in other words it may be false: `ip proto 17` covers `ip udp`, which is UDP
    /// whatever its ports, and not the other way round.
    package func covers(_ other: FlowRule) -> Bool {
        scope.covers(other.scope.strengthened)
    }

    /// The packets that the rule is about, whatever other rules there are.
    private var scope: FlowKeyPattern {
        switch kind {
        case .normal: FlowKeyPattern(self)
        case .multicastDefault:
            FlowKeyPattern(.ethernet(destination: "01:00:00:00:00:00/01:00:00:00:00:00"))
        case .allDefault, .sniffer: FlowKeyPattern(.any)
        }
    }
}
