package engine

import "github.com/dapr/durabletask-go/api/protos"

// InstanceOf translates what durabletask-go says of an instance.
func InstanceOf(m *protos.WorkflowMetadata) Instance {
	switch m.GetRuntimeStatus() {
	case protos.OrchestrationStatus_ORCHESTRATION_STATUS_COMPLETED:
		return Instance{State: Completed}
	case protos.OrchestrationStatus_ORCHESTRATION_STATUS_FAILED,
		protos.OrchestrationStatus_ORCHESTRATION_STATUS_CANCELED,
		protos.OrchestrationStatus_ORCHESTRATION_STATUS_TERMINATED:
		return Instance{State: Failed, Failure: m.GetFailureDetails().GetErrorMessage()}
	case protos.OrchestrationStatus_ORCHESTRATION_STATUS_STALLED:
		return Instance{State: Stalled, Failure: m.GetFailureDetails().GetErrorMessage()}
	default:
		return Instance{State: Running}
	}
}
