package provider

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/provider/account"
	"github.com/isthmus-hpc/isthmus/provider/inventory"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// waiting is a cause to wait that a user or an admin can remove.
type waiting struct{ reason, message string }

func (w *waiting) Error() string { return w.reason + ": " + w.message }

func asWaiting(err error, w **waiting) bool { return errors.As(err, w) }

// prepare translates the gang once: account, referenced objects, batch job and
// manifests. ok is false when the gang was refused for good. A missing object
// or account is a *waiting error: it may come.
func (b *Bridge) prepare(ctx context.Context, g *lifecycle.Gang, m *memo, pods map[string]*corev1.Pod) (ok bool, err error) {
	if m.refused != "" {
		return false, nil
	}
	if m.output != nil {
		return true, nil
	}
	in := translate.Input{
		Cluster: b.Cluster, Key: g.Key, Owner: b.Owner, Attempt: g.Attempt,
		Launcher: b.Launcher, Capabilities: b.Backend.Capabilities(), APIServer: b.APIServer,
	}
	how, _ := streamsOf(b.Cluster, b.Backend)
	in.Listen = how == hpcv1alpha1.StreamsNetwork
	for i, mem := range g.Members {
		pod := pods[mem.UID]
		if mem.Deleting || mem.Finished {
			continue
		}
		if len(in.Members) == 0 {
			vnode, known := b.vnode(pod.Spec.NodeName)
			if !known {
				return false, &waiting{"PartitionNotFound", fmt.Sprintf("node %s stands for no partition of %s any more", pod.Spec.NodeName, b.Cluster.Name)}
			}
			acct, err := b.accountOf(pod)
			if err != nil {
				return false, err
			}
			in.Node, in.Account, m.account = vnode, acct, acct
			if problem := b.offered(pod.Spec.NodeName, &in); problem != "" {
				return false, &waiting{"PartitionNotUsable", fmt.Sprintf("node %s: %s", pod.Spec.NodeName, problem)}
			}
			if m.user == "" { // else it is where an earlier life staged the gang
				m.user = acct.User
			}
			in.WorkDir = b.Stager.WorkDir(acct.User, g.Key)
			b.identify(&in)
		}
		in.Members = append(in.Members, translate.Member{Rank: i, Pod: pod})
	}
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(apiParallel)
	for i, m := range in.Members {
		group.Go(func() (err error) {
			configMaps, secrets := translate.References(m.Pod, in.Account.ServiceAccountTokens)
			in.Members[i], err = b.resolve(gctx, b.Objects, in.Account, m.Rank, m.Pod, configMaps, secrets)
			in.Members[i].Traceparent = b.Tracer.Parent(g.Key, string(m.Pod.UID))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return false, err
	}
	out, err := translate.Gang(in)
	var refusal *translate.Refusal
	switch {
	case err == nil:
	case errors.As(err, &refusal) && refusal.Permanent:
		m.refusedReason, m.refused = refusal.Reason, refusal.Error()
		b.tell(m, pods, corev1.EventTypeWarning, refusal.Reason, refusal.Error())
		return false, nil
	case errors.As(err, &refusal):
		return false, &waiting{refusal.Reason, refusal.Error()}
	default:
		return false, err
	}
	m.output = &out
	for _, p := range out.Pods {
		m.ranks[string(p.Pod.UID)] = p.Rank
	}
	for _, e := range out.Events {
		if pod := pods[e.UID]; pod != nil {
			b.tell(m, map[string]*corev1.Pod{e.UID: pod}, corev1.EventTypeWarning, e.Reason, e.Message)
		}
	}
	for _, note := range out.Notes {
		b.tell(m, pods, corev1.EventTypeNormal, "Note", note)
	}
	return true, nil
}

// accountOf maps the pod's namespace to the user its job runs as.
func (b *Bridge) accountOf(pod *corev1.Pod) (account.Account, error) {
	return b.accountIn(pod.Namespace)
}

// accountIn maps a namespace to the user that its pods' jobs run as.
func (b *Bridge) accountIn(namespace string) (account.Account, error) {
	labels, ok := b.Objects.NamespaceLabels(namespace)
	if !ok {
		return account.Account{}, &waiting{"NamespaceUnknown", fmt.Sprintf("namespace %s is not known yet", namespace)}
	}
	acct, err := account.Map(b.Cluster.Spec.Accounts, namespace, labels)
	if err != nil {
		return account.Account{}, &waiting{"NoAccount", fmt.Sprintf("BatchCluster %s: %v", b.Cluster.Name, err)}
	}
	return acct, nil
}

// identify adds what the cluster says of the account's user.
func (b *Bridge) identify(in *translate.Input) {
	b.mu.Lock()
	defer b.mu.Unlock()
	id := b.ids[in.Account.User]
	in.UID, in.GID, in.Groups = id.UID, id.GID, id.Groups
}

// reader reads what pods refer to.
type reader interface {
	ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Token(ctx context.Context, pod *corev1.Pod, audience string, lifetime time.Duration) (token string, ends time.Time, err error)
}

// renewAfter is the part of a token's life after which it is renewed, as in a
// kubelet.
const renewAfter = 0.8

// unreadable words why an object that a pod needs cannot be read. Rights end at the
// namespaces that the administrator named, and the API server's words say nothing
// of where that is.
func unreadable(kind string, pod *corev1.Pod, name string, err error) error {
	if apierrors.IsForbidden(err) {
		return &waiting{"CreateContainerConfigError", fmt.Sprintf(
			"%s %s cannot be read: the virtual node has no rights in namespace %s; the administrator adds it to vnode.namespaces of the chart", kind, name, pod.Namespace)}
	}
	return fmt.Errorf("read %s %s/%s: %w", kind, pod.Namespace, name, err)
}

// resolve reads every object the pod refers to. One that is missing is left out:
// the translation knows which field needs it, and whether the pod can do without.
func (b *Bridge) resolve(ctx context.Context, from reader, acct account.Account, rank int, pod *corev1.Pod, configMaps, secrets []translate.Ref) (translate.Member, error) {
	out := translate.Member{Rank: rank, Pod: pod, ConfigMaps: map[string]*corev1.ConfigMap{}, Secrets: map[string]*corev1.Secret{},
		Claims: map[string]*corev1.PersistentVolumeClaim{}, Tokens: map[translate.TokenRequest]string{}}
	for _, ref := range configMaps {
		cm, err := from.ConfigMap(ctx, pod.Namespace, ref.Name)
		if err != nil && !apierrors.IsNotFound(err) {
			return out, unreadable("ConfigMap", pod, ref.Name, err)
		}
		if err == nil {
			out.ConfigMaps[ref.Name] = cm
		}
	}
	for _, ref := range secrets {
		s, err := from.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil && !apierrors.IsNotFound(err) {
			return out, unreadable("Secret", pod, ref.Name, err)
		}
		if err == nil {
			out.Secrets[ref.Name] = s
		}
	}
	for _, ref := range translate.Claims(pod) {
		claim, err := b.Objects.Claim(ctx, pod.Namespace, ref.Name)
		if err != nil && !apierrors.IsNotFound(err) {
			return out, unreadable("PersistentVolumeClaim", pod, ref.Name, err)
		}
		if err == nil {
			out.Claims[ref.Name] = claim
		}
	}
	if !acct.ServiceAccountTokens {
		return out, nil
	}
	for _, ref := range translate.Tokens(pod) {
		asked := b.Clock.Now()
		token, ends, err := from.Token(ctx, pod, ref.Audience, time.Duration(ref.Seconds)*time.Second)
		if err != nil {
			return out, fmt.Errorf("request a token of service account %s/%s: %w", pod.Namespace, pod.Spec.ServiceAccountName, err)
		}
		out.Tokens[ref] = token
		renew := metav1.NewTime(asked.Add(time.Duration(float64(ends.Sub(asked)) * renewAfter)))
		if out.RenewAt.IsZero() || renew.Before(&out.RenewAt) {
			out.RenewAt = renew
		}
	}
	return out, nil
}

func (b *Bridge) vnode(name string) (hpcv1alpha1.VirtualNode, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, ok := b.vnodes[name]
	return v, ok
}

func (b *Bridge) partition(node string) (inventory.View, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v, ok := b.views[node]
	return v, ok
}

// offered puts into in what the batch system has for the jobs of the node, where that
// is known; problem says why they cannot be served.
func (b *Bridge) offered(node string, in *translate.Input) (problem string) {
	view, ok := b.partition(node)
	if !ok {
		return ""
	}
	in.Partition, in.GPUTypes, in.Shards = view.Partition, view.GPUTypes, view.Shards
	in.Licenses, in.LicensesUnread = view.LicenseNames(), view.LicensesUnread != ""
	return view.Problem
}

func (b *Bridge) partitionOf(g *lifecycle.Gang, pods map[string]*corev1.Pod) string {
	for _, mem := range g.Members {
		if p := pods[mem.UID]; p != nil {
			v, _ := b.vnode(p.Spec.NodeName)
			return v.Partition
		}
	}
	return ""
}
