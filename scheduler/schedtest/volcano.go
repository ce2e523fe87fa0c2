package schedtest

// VolcanoTiers are the tiers of the configuration that Volcano's own Helm chart gives
// its scheduler.
const VolcanoTiers = `tiers:
- plugins:
  - name: priority
  - name: gang
    enablePreemptable: false
  - name: conformance
- plugins:
  - name: overcommit
  - name: drf
    enablePreemptable: false
  - name: predicates
  - name: proportion
  - name: nodeorder
  - name: binpack
`
