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
