package security_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// judge makes a policy what the API server makes of it.
func judge(t *testing.T, p *admissionv1.ValidatingAdmissionPolicy) validating.Validator {
	t.Helper()
	c, err := cel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		t.Fatal(err)
	}
	with, without := cel.OptionalVariableDeclarations{HasAuthorizer: true}, cel.OptionalVariableDeclarations{}
	var variables []cel.NamedExpressionAccessor
	for _, v := range p.Spec.Variables {
		variables = append(variables, &validating.Variable{Name: v.Name, Expression: v.Expression})
	}
	c.CompileAndStoreVariables(variables, with, environment.StoredExpressions)
	var conditions, rules, messages []cel.ExpressionAccessor
	for _, m := range p.Spec.MatchConditions {
		conditions = append(conditions, &matchconditions.MatchCondition{Name: m.Name, Expression: m.Expression})
	}
	for _, v := range p.Spec.Validations {
		rules = append(rules, &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason})
		messages = append(messages, &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression})
	}
	compile := func(all []cel.ExpressionAccessor, o cel.OptionalVariableDeclarations) cel.ConditionEvaluator {
		return c.CompileCondition(all, o, environment.StoredExpressions)
	}
	match := matchconditions.NewMatcher(compile(conditions, with), p.Spec.FailurePolicy, "policy", "validate", p.Name)
	return validating.NewValidator(compile(rules, with), match, compile(nil, with), compile(messages, without), p.Spec.FailurePolicy, nil)
}

// TestWordsOfTheSchedulerOnPodGroups: for a nomination on a PodGroup nodes are kept free, so
// that nobody but a scheduler may write one; all else may be written by whoever may.
func TestWordsOfTheSchedulerOnPodGroups(t *testing.T) {
	objects := render(t, "admission: {schedulers: [of-others]}")
	all := as[admissionv1.ValidatingAdmissionPolicy](t, objects, "ValidatingAdmissionPolicy")
	i := slices.IndexFunc(all, func(p admissionv1.ValidatingAdmissionPolicy) bool { return p.Name == "isthmus-podgroup-facts" })
	if i < 0 {
		t.Fatal("there is no policy isthmus-podgroup-facts")
	}
	bindings := as[admissionv1.ValidatingAdmissionPolicyBinding](t, objects, "ValidatingAdmissionPolicyBinding")
	if !slices.ContainsFunc(bindings, func(b admissionv1.ValidatingAdmissionPolicyBinding) bool {
		return b.Spec.PolicyName == all[i].Name && slices.Equal(b.Spec.ValidationActions, []admissionv1.ValidationAction{admissionv1.Deny})
	}) {
		t.Error("the policy is bound to nothing, or does not deny")
	}
	if r := all[i].Spec.MatchConstraints.ResourceRules; len(r) != 1 || !slices.Equal(r[0].Resources, []string{"podgroups"}) ||
		!slices.Equal(r[0].Operations, []admissionv1.OperationType{admissionv1.Create, admissionv1.Update}) {
		t.Errorf("the policy is asked about %+v", r)
	}
	validator := judge(t, &all[i])
	const scheduler, controllers = "system:serviceaccount:" + namespace + ":isthmus-scheduler", "system:serviceaccount:" + namespace + ":isthmus-controllers"
	type said = map[string]string
	room, other := said{wellknown.Nomination: "{}"}, said{wellknown.Nomination: `{"domain":"nodes"}`}
	for _, c := range []struct {
		name, who   string
		before, now said // before is nil where the PodGroup is new
		denied      string
	}{
		{"made with room", "eve", nil, room, wellknown.Nomination},
		{"made with room that is empty", "eve", nil, said{wellknown.Nomination: ""}, wellknown.Nomination},
		{"made with copies to make", "eve", nil, said{wellknown.Staging: "{}"}, wellknown.Staging},
		{"made with both", "eve", nil, said{wellknown.Staging: "{}", wellknown.Nomination: "{}"}, wellknown.Nomination + ", " + wellknown.Staging},
		{"made with room by our controllers", controllers, nil, room, wellknown.Nomination},
		{"made with others", "eve", nil, said{wellknown.Walltime: "1h"}, ""},
		{"made without any", "eve", nil, said{}, ""},
		{"room is added", "eve", said{}, room, wellknown.Nomination},
		{"room is changed", "eve", other, room, wellknown.Nomination},
		{"room is changed by our controllers", controllers, other, room, wellknown.Nomination},
		{"room stays", "eve", room, room, ""},
		{"room stays and others change", "eve", room, said{wellknown.Nomination: "{}", wellknown.Walltime: "1h"}, ""},
		{"room is left out", "eve", room, said{}, ""},
		{"room is added by the scheduler", scheduler, said{}, room, ""},
		{"room is changed by the scheduler", scheduler, other, room, ""},
		{"room is added by the other scheduler", "of-others", said{}, room, ""},
		{"room is added by an administrator", "root", said{}, room, ""},
	} {
		if got := verdict(t, validator, c.who, c.before, c.now); c.denied == "" && got != "" || c.denied != "" && !strings.Contains(got, c.denied+" are written by Isthmus alone") {
			t.Errorf("%s: denied with %q, want %q", c.name, got, c.denied)
		}
	}
}

// verdict is what a policy says against a PodGroup of a user, "" when it lets it pass.
func verdict(t *testing.T, v validating.Validator, who string, before, now map[string]string) string {
	t.Helper()
	kind := schema.GroupVersionKind{Group: "scheduling.volcano.sh", Version: "v1beta1", Kind: "PodGroup"}
	resource := kind.GroupVersion().WithResource("podgroups")
	group := func(annotations map[string]string) *unstructured.Unstructured {
		o := &unstructured.Unstructured{}
		o.SetGroupVersionKind(kind)
		o.SetName("g")
		if len(annotations) > 0 {
			o.SetAnnotations(annotations)
		}
		return o
	}
	a := &admission.VersionedAttributes{VersionedKind: kind}
	object, person := group(now), &user.DefaultInfo{Name: who}
	if before == nil {
		a.Attributes = admission.NewAttributesRecord(object, nil, kind, "ns", "g", resource, "", admission.Create, &metav1.CreateOptions{}, false, person)
	} else {
		old := group(before)
		a.Attributes = admission.NewAttributesRecord(object, old, kind, "ns", "g", resource, "", admission.Update, &metav1.UpdateOptions{}, false, person)
		a.VersionedOldObject.Set(old)
	}
	a.VersionedObject.Set(object)
	may := authorizer.AuthorizerFunc(func(_ context.Context, r authorizer.Attributes) (authorizer.Decision, string, error) {
		if r.GetUser().GetName() == "root" && r.GetVerb() == "override" && r.GetResource() == "batchclusters" {
			return authorizer.DecisionAllow, "", nil
		}
		return authorizer.DecisionNoOpinion, "", nil
	})
	var out []string
	for _, d := range v.Validate(t.Context(), resource, a, nil, nil, celconfig.RuntimeCELCostBudget, may).Decisions {
		if d.Action != validating.ActionAdmit {
			out = append(out, string(d.Evaluation)+" "+d.Message)
		}
	}
	return strings.Join(out, "; ")
}
