{{/*
Policies of the API server for the Volcano API. Each rule is a list of complaints,
which the request passes when it is empty; a complaint names the field, the value,
the rule, and what to do. They cost no process and cannot be down, so they fail
closed. What needs other objects to judge is the webhook's.
*/}}

{{/* Whether the API server knows the functions that the policies use. */}}
{{- define "isthmus.volcano.policies" -}}
{{- $v := .Values.admission.volcano.policies | toString }}
{{- if or (eq $v "on") (and (eq $v "auto") (semverCompare ">=1.35-0" .Capabilities.KubeVersion.Version)) -}}true{{- end }}
{{- end }}

{{/* Who fills in defaults: policy, webhook or none. */}}
{{- define "isthmus.volcano.defaults" -}}
{{- $v := .Values.admission.volcano.defaults }}
{{- if ne $v "auto" -}}{{ $v }}
{{- else if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy" -}}policy
{{- else if .Values.admission.volcano.webhook.enabled -}}webhook
{{- else -}}none
{{- end }}
{{- end }}

{{/* The binding of a policy that denies: (list $ "name"). */}}
{{- define "isthmus.volcano.binding" -}}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ index . 1 }}
  labels: {{- include "isthmus.labels" (index . 0) | nindent 4 }}
spec:
  policyName: {{ index . 1 }}
  validationActions: [Deny]
{{- end }}

{{/* One rule, by the name of the variable that holds its complaints. */}}
{{- define "isthmus.volcano.rule" }}
  - expression: "variables.{{ . }}.size() == 0"
    messageExpression: "variables.{{ . }}.join('; ')"
    reason: Invalid
{{- end }}

{{/* Objects that are new, or whose spec changes: what is stored may be mended elsewhere. */}}
{{- define "isthmus.volcano.changed" }}
  - name: new-or-changed
    expression: "request.operation == 'CREATE' || object.?spec != oldObject.?spec"
{{- end }}

{{/* What an object says of annotations of Isthmus, in itself and in what it holds. */}}
{{- define "isthmus.volcano.said" -}}
([{'at': dyn('metadata.annotations'), 'said': dyn({{ . }}.?metadata.?annotations.orValue(dyn({})))},
      {'at': dyn('spec.jobTemplate.metadata.annotations'), 'said': dyn({{ . }}.?spec.?jobTemplate.?metadata.?annotations.orValue(dyn({})))}] +
      (request.kind.kind == 'CronJob' ? {{ . }}.?spec.?jobTemplate.?spec.?tasks.orValue(dyn([])) : {{ . }}.?spec.?tasks.orValue(dyn([]))).transformList(i, t,
      {'at': dyn(variables.tasksAt + '[' + string(i) + '].template.metadata.annotations'), 'said': dyn(t.?template.?metadata.?annotations.orValue(dyn({})))})).map(p,
      p.said.transformList(k, v, k.startsWith('isthmus.sh/'), {'at': dyn(p.at + '[' + k + ']'), 'key': dyn(k), 'value': dyn(v)})).flatten()
{{- end }}

{{/* What policies of annotations match, with what is new of them in the variable fresh. */}}
{{- define "isthmus.volcano.annotated" }}
  matchConstraints:
    matchPolicy: Equivalent
    resourceRules:
    - {apiGroups: [batch.volcano.sh], apiVersions: [v1alpha1], operations: [CREATE, UPDATE], resources: [jobs, cronjobs]}
    - {apiGroups: [flow.volcano.sh], apiVersions: [v1alpha1], operations: [CREATE, UPDATE], resources: [jobtemplates, jobflows]}
  variables:
  - name: tasksAt
    expression: "request.kind.kind == 'CronJob' ? 'spec.jobTemplate.spec.tasks' : 'spec.tasks'"
  - name: said
    expression: >-
      {{ include "isthmus.volcano.said" "object" }}
  # By where it is said: what an object may say is bounded by the cost of a search then,
  # not by its square.
  - name: before
    expression: >-
      request.operation == 'CREATE' ? {} : {{ include "isthmus.volcano.said" "oldObject" }}.transformMapEntry(i, s, {s.at: s.value})
  - name: fresh
    expression: "variables.said.filter(s, !(s.at in variables.before) || variables.before[s.at] != s.value)"
{{- end }}
