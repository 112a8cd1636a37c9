/* A driver for pcscd: a reader without a card and with a lamp, whose driver lets commands through to the reader, as
 * libccid does when it was configured to. It knows no model: it answers as an ACR122U and appends each command in
 * hexadecimal to the file that is its DEVICENAME. */

#include <stdio.h>
#include <string.h>

#include <ifdhandler.h>

/* SCARD_CTL_CODE(1), which libccid calls IOCTL_SMARTCARD_VENDOR_IFD_EXCHANGE. */
#define ESCAPE 0x42000001

static char commands[4096];

RESPONSECODE IFDHCreateChannelByName(DWORD lun, LPSTR name) {
  (void)lun;
  snprintf(commands, sizeof commands, "%s", name);
  return IFD_SUCCESS;
}

RESPONSECODE IFDHCreateChannel(DWORD lun, DWORD channel) {
  (void)lun, (void)channel;
  return IFD_ERROR_NOT_SUPPORTED;
}

RESPONSECODE IFDHCloseChannel(DWORD lun) {
  (void)lun;
  return IFD_SUCCESS;
}

RESPONSECODE IFDHControl(DWORD lun, DWORD code, PUCHAR sent, DWORD sent_length, PUCHAR answer, DWORD answer_room,
                         LPDWORD answer_length) {
  (void)lun;
  *answer_length = 0;
  if (code != ESCAPE) return IFD_ERROR_NOT_SUPPORTED;
  if (answer_room < 2) return IFD_ERROR_INSUFFICIENT_BUFFER;
  FILE *log = fopen(commands, "a");
  if (log == NULL) return IFD_COMMUNICATION_ERROR;
  for (DWORD i = 0; i < sent_length; i++) fprintf(log, "%02X", sent[i]);
  fputc('\n', log);
  fclose(log);
  memcpy(answer, "\x90\x02", 2);
  *answer_length = 2;
  return IFD_SUCCESS;
}

RESPONSECODE IFDHICCPresence(DWORD lun) {
  (void)lun;
  return IFD_ICC_NOT_PRESENT;
}

RESPONSECODE IFDHGetCapabilities(DWORD lun, DWORD tag, PDWORD length, PUCHAR value) {
  (void)lun;
  if (tag != TAG_IFD_SLOTS_NUMBER || *length < 1) return IFD_ERROR_TAG;
  *length = 1;
  *value = 1;
  return IFD_SUCCESS;
}

RESPONSECODE IFDHSetCapabilities(DWORD lun, DWORD tag, DWORD length, PUCHAR value) {
  (void)lun, (void)tag, (void)length, (void)value;
  return IFD_ERROR_TAG;
}

RESPONSECODE IFDHSetProtocolParameters(DWORD lun, DWORD protocol, UCHAR flags, UCHAR pts1, UCHAR pts2, UCHAR pts3) {
  (void)lun, (void)protocol, (void)flags, (void)pts1, (void)pts2, (void)pts3;
  return IFD_SUCCESS;
}

RESPONSECODE IFDHPowerICC(DWORD lun, DWORD action, PUCHAR atr, PDWORD atr_length) {
  (void)lun, (void)action, (void)atr;
  *atr_length = 0;
  return IFD_ERROR_POWER_ACTION;
}

RESPONSECODE IFDHTransmitToICC(DWORD lun, SCARD_IO_HEADER to, PUCHAR sent, DWORD sent_length, PUCHAR answer,
                               PDWORD answer_length, PSCARD_IO_HEADER from) {
  (void)lun, (void)to, (void)sent, (void)sent_length, (void)answer, (void)from;
  *answer_length = 0;
  return IFD_ICC_NOT_PRESENT;
}
