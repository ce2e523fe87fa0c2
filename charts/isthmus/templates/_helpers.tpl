{{/* Labels of every object. */}}
{{- define "isthmus.labels" -}}
app.kubernetes.io/name: isthmus
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* The image of a program: (list $ "vnode"). */}}
{{- define "isthmus.image" -}}
{{- $top := index . 0 }}{{ $program := index . 1 }}
{{- with index $top.Values.image.digests $program -}}
{{ $top.Values.image.registry }}/{{ $program }}@{{ . }}
{{- else -}}
{{ $top.Values.image.registry }}/{{ $program }}:{{ $top.Values.image.tag | default $top.Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* The user name of a program's service account: (list $ "vnode"). */}}
{{- define "isthmus.user" -}}
{{- $top := index . 0 -}}
system:serviceaccount:{{ $top.Release.Namespace }}:isthmus-{{ index . 1 }}
{{- end }}

{{/* Where a pod may run, of the values of its program or cluster. */}}
{{- define "isthmus.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What no container of ours may do. */}}
{{- define "isthmus.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "isthmus.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}
